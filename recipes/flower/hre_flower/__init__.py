"""Encrypted training with hre_torch, started through Flower."""
