"""Fixtures and settings that every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Generators of known-answer vectors are programs, not modules to import.
collect_ignore = ["vectors"]

# Two busy cores make any deadline a coin toss.
settings.register_profile("hre_torch", deadline=None)
settings.load_profile("hre_torch")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real MNIST and CIFAR-10; tests that need it are marked `data`."""
    folder = os.environ.get("HRE_TORCH_DATA")
    if not folder:
        pytest.skip("HRE_TORCH_DATA is not set")
    return Path(folder)
