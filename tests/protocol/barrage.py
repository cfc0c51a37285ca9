"""Feeding a decoder malformed input, again and again."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hre_torch.errors import HREError

MAX_SECONDS = 1.0
"""Processor time for one input; whatever takes longer hangs."""


@contextmanager
def promptly(data: bytes) -> Iterator[None]:
    """Fail if a block hangs on an input.

    Garbage is collected between the blocks: what some thousand tests have left keeps a
    full collection busy for a second, and is not the work of the decoder under test.
    """
    gc.disable()
    start = time.thread_time()
    try:
        yield
    finally:
        seconds = time.thread_time() - start
        gc.enable()
        if seconds > MAX_SECONDS:
            pytest.fail(f"{seconds:.1f} s on {data[:200].hex()} ({len(data)} octets)")


def attack(
    decoder: Callable[[bytes], Any],
    mutants: Iterator[bytes],
    count: int,
    faithful: Callable[[Any, bytes], bool] = lambda value, data: True,
) -> dict[str, int]:
    """Feed a decoder; return how often each error was the answer.

    Args:
        decoder: what is tested.
        mutants: its inputs.
        count: how many.
        faithful: whether a decoded value is what arrived.
    """
    answers: dict[str, int] = defaultdict(int)
    for _ in range(count):
        data = next(mutants)
        try:
            with promptly(data):
                value = decoder(data)
        except HREError as error:
            answers[type(error).__name__] += 1
        except Exception as error:
            pytest.fail(f"{error!r} on {data[:200].hex()} ({len(data)} octets)")
        else:
            answers["accepted"] += 1
            assert faithful(value, data), data[:200].hex()
    assert sum(answers.values()) == count
    assert answers["accepted"] < count
    return answers


def endless(make: Callable[..., bytes], *arguments: Any) -> Iterator[bytes]:
    while True:
        yield make(*arguments)


def counts(default: int) -> pytest.MarkDecorator:
    """Run a test with so many mutants, and marked slow with fifty times as many."""
    slow = pytest.param(50 * default, marks=pytest.mark.slow)
    return pytest.mark.parametrize("count", [default, slow])
