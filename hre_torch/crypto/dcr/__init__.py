"""Arithmetic modulo n^2: the re-encryption of suites paper, gated and hybrid."""
