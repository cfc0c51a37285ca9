"""Where numbers come from: machine, versions, command, commit."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import gmpy2

import hre_torch

__all__ = ["cpu_name", "describe"]

_ROOT: Final = Path(__file__).parents[1]
_PACKAGES: Final = (
    "gmpy2",
    "numpy",
    "torch",
    "cryptography",
    "msgspec",
    "phe",
    "tenseal",
    "flwr",
)


def describe(
    arguments: Sequence[str], *, program: str = "benchmarks/run.py"
) -> dict[str, Any]:
    """Return everything that a reader needs to judge a number, ready for JSON.

    The machine's name and its users' are left out: they explain no number.

    Args:
        arguments: those that the program was started with.
        program: how Python was told which program.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *program.split(), *arguments]),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": bool(_git("status", "--porcelain")),
        "machine": _machine(),
        "versions": _versions(),
    }


def _machine() -> Mapping[str, Any]:
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "memory_mib": _memory_mib(),
        "system": f"{platform.system()} {platform.release()}",
        # Others at work on the machine show here; beside a benchmark it should be 0.
        "load_before": _load(),
    }


def cpu_name() -> str:
    """Return what the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or "unknown"


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _memory_mib() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    except (AttributeError, ValueError, OSError):
        return None


def _versions() -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "hre_torch": hre_torch.__version__,
        "gmp": gmpy2.mp_version().removeprefix("GMP "),
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
