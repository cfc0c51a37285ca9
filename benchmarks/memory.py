"""How much memory a phase takes beyond what was there: a gauge for nested phases.

Linux keeps the highest resident size of a process (`VmHWM`) and lets the process start
it anew, so one reading before and one after tell the peak in between, whoever allocated
it: Python, numpy, gmpy2, torch. Memory that was freed but kept by the C library would
hide what a phase takes; it is handed back to the system first.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["MemoryGauge", "peak_mib"]

_CLEAR: Final = Path("/proc/self/clear_refs")
_STATUS: Final = Path("/proc/self/status")
_CLEAR_PEAK: Final = "5"
"""What resets `VmHWM` to the present size (proc(5))."""
_KIB_PER_MIB: Final = 1024


@dataclass(slots=True)
class _Span:
    """A phase under way: resident size when it began and highest since, in KiB."""

    before: int
    highest: int


class MemoryGauge:
    """Measures the peak of extra resident memory; a span may hold further spans.

    What a phase returns counts as well as what it needs on the way. Only this process
    is seen, not its workers.
    """

    def __init__(self) -> None:
        self._spans: list[_Span] = []
        self._works = self._reset()

    def begin(self) -> None:
        """Begin a span, inside the one that is under way."""
        if self._works:
            self._note_highest()
            _give_back_freed()
            self._reset()
            now = _status()["VmRSS"]
            self._spans.append(_Span(before=now, highest=now))

    def end(self) -> float | None:
        """End the innermost span; return its peak in MiB, None where it is unknown."""
        if not self._works:
            return None
        self._note_highest()
        self._reset()
        span = self._spans.pop()
        return (span.highest - span.before) / _KIB_PER_MIB

    def _note_highest(self) -> None:
        # A reset would make the spans around forget what came before it.
        highest = _status()["VmHWM"]
        for span in self._spans:
            span.highest = max(span.highest, highest)

    def _reset(self) -> bool:
        try:
            _CLEAR.write_text(_CLEAR_PEAK, encoding="ascii")
        except OSError:
            return False
        return True


def peak_mib() -> float:
    """Return the highest resident size of this process so far, in MiB (Linux)."""
    return _status()["VmHWM"] / _KIB_PER_MIB


def _status() -> dict[str, int]:
    """Return `VmHWM` and `VmRSS` of this process in KiB."""
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    fields = (line.split() for line in lines if line.startswith(("VmHWM", "VmRSS")))
    return {name.rstrip(":"): int(size) for name, size, _ in fields}


def _give_back_freed() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
