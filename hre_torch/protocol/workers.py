"""Where block-wise arithmetic runs: in this thread, or in any executor."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from itertools import pairwise
from typing import Any, Final, TypeVar

from hre_torch.errors import ConfigurationError, LostWorkerWarning

__all__ = ["Workers"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOK_SECONDS: Final = 1.0


class Workers:
    """Maps pure functions over blocks, split into as many chunks as there are workers.

    Functions and arguments must pickle when the executor runs processes. A process
    pool is forked when it is first used, so that fixed-base tables made before that
    are shared with the workers and not built again.

    Args:
        executor: any `concurrent.futures.Executor`, or None for this thread.
        count: how many chunks to split work into; the executor's parallelism.
    """

    def __init__(self, executor: Executor | None = None, count: int = 1) -> None:
        if count < 1:
            raise ConfigurationError(f"workers must be at least 1, not {count}")
        self._executor = executor
        self.count = count if executor is not None else 1

    @classmethod
    def processes(cls, count: int) -> Workers:
        """Return `count` worker processes; one means this very thread.

        They end by themselves soon after this process was killed. (Linux could do so at
        once, but it watches the *thread* that forked them, which in a script may end
        long before its session does.)

        Raises:
            ConfigurationError: `count` is no whole number, or below 1.
        """
        if type(count) is not int:
            raise ConfigurationError(f"workers must be a whole number, not {count!r}")
        if count <= 1:
            return cls(count=count)
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork" if "fork" in methods else None)
        executor = ProcessPoolExecutor(
            count, mp_context=context, initializer=_follow, initargs=(os.getpid(),)
        )
        return cls(executor, count)

    def start(self) -> None:
        """Start the workers now, if they are processes that would start at first use.

        To be called when the fixed-base tables are made and before other threads run: a
        process that is forked later may inherit a lock that a thread holds.
        """
        if self._executor is not None:
            self._executor.submit(int).result()

    def map(
        self, function: Callable[..., Result], items: Sequence[Item], *shared: Any
    ) -> list[Result]:
        """Return `[function(item, *shared) for item in items]`, perhaps in parallel."""
        chunks = min(self.count, len(items))
        if self._executor is None or chunks <= 1:
            return _map_chunk(function, items, shared)
        bounds = [len(items) * i // chunks for i in range(chunks + 1)]
        try:
            futures = [
                self._executor.submit(_map_chunk, function, items[low:high], shared)
                for low, high in pairwise(bounds)
            ]
            return [result for future in futures for result in future.result()]
        except BrokenExecutor:
            # A pool that lost a process takes no more work; forking a new one is not
            # safe by now. The functions are pure, so this thread does it all again.
            self._executor = None
            warnings.warn(
                "a worker process was killed, perhaps for its memory; arithmetic goes "
                "on in one thread until this process is restarted",
                LostWorkerWarning,
                stacklevel=2,
            )
            return _map_chunk(function, items, shared)

    def close(self) -> None:
        """End the executor, if there is one."""
        if self._executor is not None:
            self._executor.shutdown()


def _follow(parent: int) -> None:
    # Ctrl-C reaches every process of a terminal; the parent says what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def _map_chunk(
    function: Callable[..., Result], items: Sequence[Item], shared: tuple[Any, ...]
) -> list[Result]:
    return [function(item, *shared) for item in items]
