"""Units a person reads at a glance: ms, s, min; kB, MB; per cent.

Text for single numbers (`duration`, `size`, `percent`, `number`) and, for axes, the
divisor that turns raw values into the largest unit that still leaves readable ticks
(`second_unit`, `byte_unit`).
"""

from __future__ import annotations

from typing import Final

from rich.filesize import decimal

__all__ = ["byte_unit", "duration", "number", "percent", "second_unit", "size"]

_SECOND_UNITS: Final = ((1.0, "s"), (60.0, "min"), (3600.0, "h"))
_BYTE_UNITS: Final = ((1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"))

# An axis that ends below 2 of its unit has ticks such as 0.25; one unit smaller reads
# better.
_LEAST_AXIS_END: Final = 2.0


def duration(seconds: float) -> str:
    """Return a duration with two or three significant digits and its unit.

    Args:
        seconds: A duration, ``0 <= seconds``.

    Returns:
        Milliseconds below one second, then seconds, minutes and hours.

    >>> [duration(s) for s in (0, 0.00042, 0.041, 2.93, 200, 3900)]
    ['0 ms', '0.42 ms', '41 ms', '2.9 s', '3 min 20 s', '1 h 05 min']
    """
    milliseconds = 1000.0 * seconds
    if milliseconds == 0:
        return "0 ms"
    if milliseconds < 0.01:
        return "< 0.01 ms"
    if milliseconds < 1:
        return f"{milliseconds:.2f} ms"
    if milliseconds < 9.95:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def size(count: float) -> str:
    """Return a number of bytes in decimal units.

    >>> [size(c) for c in (532, 875_000, 20_100_000)]
    ['532 bytes', '875.0 kB', '20.1 MB']
    """
    return decimal(round(count))


def percent(fraction: float) -> str:
    """Return a fraction in [0, 1] as per cent with one decimal.

    >>> percent(0.9667)
    '96.7 %'
    """
    return f"{100.0 * fraction:.1f} %"


def number(value: float) -> str:
    """Return a count with thousands separated, or a real number with four digits.

    >>> number(109386), number(0.0321987)
    ('109,386', '0.0322')
    """
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def second_unit(largest: float) -> tuple[float, str]:
    """Return divisor and name of the unit for an axis of seconds up to `largest`."""
    return _axis_unit(largest, _SECOND_UNITS)


def byte_unit(largest: float) -> tuple[float, str]:
    """Return divisor and name of the unit for an axis of bytes up to `largest`.

    >>> byte_unit(20_100_000)
    (1000000.0, 'MB')
    """
    return _axis_unit(largest, _BYTE_UNITS)


def _axis_unit(
    largest: float, units: tuple[tuple[float, str], ...]
) -> tuple[float, str]:
    chosen = units[0]
    for unit in units:
        if largest / unit[0] >= _LEAST_AXIS_END:
            chosen = unit
    return chosen
