"""Masks from Ring-LWE: the words of suite hybrid."""
