"""What the numbers ought to be: the project's own targets, and whether they are met.

Each target is one figure made of records of one run, most of them ratios. They hold for
one core and a modulus of 3072 bits; a target whose records were not measured is left
out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.measure import Record

__all__ = ["Verdict", "judge"]

_REFERENCE: Final = 109_386
_MILLION: Final = 10**6
_LARGE: Final = 10**7
_RESNET20: Final = 269_722
_RESNET18: Final = 11_173_962
_MODULUS_BITS: Final = 3072
_KTS_PHASES: Final = ("kts_push", "kts_release", "kts_recipient_first", "kts_recipient")

_OF_AN_EXCHANGE: Final = (
    *("client_push", "dsp_push", "kts_push", "dsp_release", "kts_release"),
    *("dsp_recipient_first", "kts_recipient_first", "client_pull"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target beside what was measured.

    Attributes:
        what: the figure.
        measured: its value.
        bound: what it ought to be.
        at_most: whether the bound is an upper one.
        unit: of both.
        scaled: whether a sample stands for one of the records.
        met: whether the measured value keeps to the bound.
    """

    what: str
    measured: float
    bound: float
    at_most: bool
    unit: str
    scaled: bool
    met: bool


class _Book:
    """Records by system, phase and length; it notes whether a sample was looked up."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = {(r.system, r.phase, r.values): r for r in records}
        self.scaled = False

    def record(self, system: str, phase: str, values: int = _REFERENCE) -> Record:
        """Return a record; KeyError if it was not measured."""
        found = self._records[system, phase, values]
        self.scaled |= found.sampled
        return found

    def seconds(self, system: str, phase: str, values: int = _REFERENCE) -> float:
        """Return a time."""
        return self.record(system, phase, values).seconds

    def bytes(self, system: str, phase: str, values: int = _REFERENCE) -> int:
        """Return what moved."""
        return self.record(system, phase, values).bytes or 0


@dataclass(frozen=True, slots=True)
class _Target:
    what: str
    figure: Callable[[_Book], float]
    bound: float
    unit: str = ""
    at_most: bool = True

    def judge(self, records: Sequence[Record]) -> Verdict | None:
        """Compare; None where a record is missing."""
        book = _Book(records)
        try:
            value = self.figure(book)
        except KeyError:
            return None
        met = value <= self.bound if self.at_most else value >= self.bound
        return Verdict(
            self.what, value, self.bound, self.at_most, self.unit, book.scaled, met
        )


def judge(records: Sequence[Record]) -> list[Verdict]:
    """Compare records with every target that they suffice for."""
    if not all(map(_counts, records)):
        return []
    return [
        verdict
        for target in _TARGETS
        for verdict in [target.judge(records)]
        if verdict is not None
    ]


def _counts(record: Record) -> bool:
    lanes, bits = record.lanes, record.modulus_bits
    return record.threads == 1 and (lanes is None or bits == _MODULUS_BITS)


def _milliseconds(system: str, phase: str) -> Callable[[_Book], float]:
    return lambda book: 1e3 * book.seconds(system, phase)


def _faster(
    system: str, other: str, phase: str, values: int = _REFERENCE
) -> Callable[[_Book], float]:
    """How many times as long the other system takes."""
    return lambda book: (
        book.seconds(other, phase, values) / book.seconds(system, phase, values)
    )


def _smaller(
    system: str, other: str, phase: str, values: int = _REFERENCE
) -> Callable[[_Book], float]:
    """How many times as many bytes the other system moves."""
    return lambda book: (
        book.bytes(other, phase, values) / book.bytes(system, phase, values)
    )


def _further_value(book: _Book) -> float:
    """Microseconds that one more value takes to pull."""
    small = book.seconds("hybrid", "client_pull")
    large = book.seconds("hybrid", "client_pull", _LARGE)
    return 1e6 * (large - small) / (_LARGE - _REFERENCE)


def _spread(phase: str, figure: Callable[[Record], float]) -> Callable[[_Book], float]:
    """By how many percent the KTS's largest figure exceeds its smallest."""

    def spread(book: _Book) -> float:
        sizes = (_REFERENCE, _MILLION, _LARGE)
        seen = [figure(book.record("hybrid", phase, size)) for size in sizes]
        return 100.0 * (max(seen) / min(seen) - 1.0)

    return spread


def _rate(phase: str) -> Callable[[_Book], float]:
    """Millions of values per second."""
    return lambda book: _LARGE / book.seconds("hybrid-words", phase, _LARGE) / 1e6


def _over_one_lane(book: _Book) -> float:
    """Bytes at the KTS per upload beyond the upload's size divided by the lanes."""
    upload = book.record("gated", "client_push")
    return book.bytes("gated", "kts_push") - (upload.bytes or 0) / (upload.lanes or 1)


def _verification(book: _Book) -> float:
    return book.seconds("gated", "check") + book.seconds("gated", "kts_push")


def _push_and_pull(book: _Book) -> float:
    """Seconds of everything that an upload and a download of ResNet-18 bring about."""
    return sum(book.seconds("hybrid", phase, _RESNET18) for phase in _OF_AN_EXCHANGE)


def _at_least(
    what: str, figure: Callable[[_Book], float], bound: float, unit: str = ""
) -> _Target:
    return _Target(what, figure, bound, unit, at_most=False)


_HYBRID: Final = (
    _Target("hybrid: push", _milliseconds("hybrid", "client_push"), 25, "ms"),
    _at_least(
        "push, TenSEAL over hybrid", _faster("hybrid", "tenseal", "client_push"), 3
    ),
    _at_least(
        "push of 10^7, TenSEAL over hybrid",
        _faster("hybrid", "tenseal", "client_push", _LARGE),
        12,
    ),
    _at_least(
        "push of 10^7, SecAgg+ over hybrid",
        _faster("hybrid", "secagg", "client_push", _LARGE),
        2,
    ),
    _Target(
        "hybrid: upload of 10^6",
        lambda book: book.record("hybrid", "client_push", _MILLION).bytes_per_value,
        4.05,
        "bytes per value",
    ),
    _at_least(
        "upload of 10^6, TenSEAL over hybrid",
        _smaller("hybrid", "tenseal", "client_push", _MILLION),
        14,
    ),
    _Target("hybrid: pull", _milliseconds("hybrid", "client_pull"), 60, "ms"),
    _Target("hybrid: pull of one more value", _further_value, 0.08, "µs"),
    *(
        _Target(
            f"hybrid: {phase}, time from 10^5 to 10^7 values",
            _spread(phase, lambda record: record.seconds),
            10,
            "% apart",
        )
        for phase in _KTS_PHASES
    ),
    *(
        _Target(
            f"hybrid: {phase}, bytes from 10^5 to 10^7 values",
            _spread(phase, lambda record: record.bytes or 0),
            10,
            "% apart",
        )
        for phase in _KTS_PHASES
    ),
    _at_least("hybrid: the DSP adds", _rate("add"), 1000, "million values/s"),
    _at_least(
        "hybrid: the DSP checks H(c) and adds",
        _rate("add_checked"),
        350,
        "million values/s",
    ),
)

_LARGE_MODEL: Final = (
    _Target("hybrid: push and pull of ResNet-18, all roles", _push_and_pull, 4, "s"),
)

_TRAINING: Final = (
    _Target(
        "hybrid: step, push and pull of the MNIST MLP",
        _milliseconds("hybrid", "train_step"),
        150,
        "ms",
    ),
    _Target(
        "MNIST MLP, exchange every 400 steps, hybrid over plain",
        _faster("plain", "hybrid", "train_step_400"),
        2,
    ),
    _Target(
        "ResNet-20, exchange every 5 steps, hybrid over plain",
        _faster("plain", "hybrid", "train_step_5", _RESNET20),
        1.25,
    ),
    _Target(
        "ResNet-20, exchange every step, hybrid over plain",
        _faster("plain", "hybrid", "train_step", _RESNET20),
        2,
    ),
)

_GATED: Final = (
    _Target(
        "encrypt, prove and sign, gated over paper",
        _faster("paper", "gated", "encrypt"),
        1.25,
    ),
    _Target(
        "upload, gated over paper", _smaller("paper", "gated", "client_push"), 1.05
    ),
    _Target("gated: KTS per upload beyond 1/L of it", _over_one_lane, 4096, "bytes"),
    _Target("gated: verification at both servers", _verification, 0.7, "s"),
    _Target("gated: open", lambda book: book.seconds("gated", "decrypt"), 3.5, "s"),
)

_PAPER: Final = tuple(
    _Target(f"paper: {phase}", _milliseconds("paper", phase), bound, "ms")
    for phase, bound in {
        "encrypt": 400.0,
        "add": 15.0,
        "first_phase": 1500.0,
        "second_phase": 3000.0,
        "decrypt": 1000.0,
    }.items()
)

_TARGETS: Final = (*_HYBRID, *_LARGE_MODEL, *_TRAINING, *_GATED, *_PAPER)
