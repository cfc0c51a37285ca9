"""Worker processes of a participant, which end when it is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Final

from hre_torch.protocol.workers import Workers

__all__ = ["follower_processes"]

_LOOK_SECONDS: Final = 1.0


def follower_processes(count: int) -> Workers:
    """Return so many worker processes; one means this very thread.

    Unlike those of `Workers.processes` they end by themselves soon after this process
    was killed. (Linux could do so at once, but it watches the *thread* that forked
    them, which in a script may end long before the session does.)

    Raises:
        ConfigurationError: `count` is below 1.
    """
    if count <= 1 or "fork" not in multiprocessing.get_all_start_methods():
        return Workers.processes(count)
    executor = ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context("fork"),
        initializer=_follow,
        initargs=(os.getpid(),),
    )
    return Workers(executor, count)


def _follow(parent: int) -> None:
    # Ctrl-C reaches every process of a terminal; the parent says what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)
