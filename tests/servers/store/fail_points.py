"""Places in the code at which a server can be made to die; known to tests only."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hre_torch.servers.store import blobs
from hre_torch.servers.store.blobs import BlobStore, BodyFiles
from hre_torch.servers.store.recorder import Recorder
from hre_torch.servers.store.rows import Rows
from hre_torch.servers.store.witness import Witness
from tests.servers.store.small_servers import Server

Armed = tuple[str, int]
"""A place, and how often the code passes it before it dies there."""

BEFORE, AFTER = "before", "after"
STARTING: dict[str, tuple[Any, str, str]] = {
    "start: tables half made": (Rows, "insert", AFTER),
    "start: everything checked": (Rows, "findings", AFTER),
    "start: orphans swept": (BlobStore, "sweep_orphans", AFTER),
    "start: witness written": (Witness, "write", AFTER),
    "start: not marked as in use yet": (Rows, "mark", BEFORE),
    "start: marked as in use": (Rows, "mark", AFTER),
}
RUNNING: dict[str, tuple[Any, str, str]] = {
    "the journal was told of an upload": (Recorder, "entered", AFTER),
    "the journal was told of a release": (Recorder, "released", AFTER),
    "the journal was told of a void": (Recorder, "withdrawn", AFTER),
    "the journal was told of a statement": (Recorder, "stated", AFTER),
    "the journal was told of a verdict": (Recorder, "judged", AFTER),
    "the journal was told what nobody asks about": (Recorder, "closed", AFTER),
    "a body is half written": (blobs, "write_all", "half"),
    "a body is written, not renamed": (Path, "replace", BEFORE),
    "a body is renamed, its folder not synced": (blobs, "sync_folder", BEFORE),
    "a body is filed, without a row": (BodyFiles, "write", AFTER),
    "a row is inserted": (Rows, "insert", AFTER),
    "a row is changed": (Rows, "change", AFTER),
    "a row is deleted": (Rows, "delete", AFTER),
    "nothing is committed yet": (Rows, "commit", BEFORE),
    "committed, but the witness is old": (Rows, "commit", AFTER),
    "the witness is written": (Witness, "write", AFTER),
    "a body is removed": (BodyFiles, "remove", AFTER),
    "the database is about to shrink": (Rows, "shrink", BEFORE),
    "the database has shrunk": (Rows, "shrink", AFTER),
    "the answer has not left": (Server, "call", AFTER),
}
POINTS = STARTING | RUNNING
AT_THE_KTS = {
    "the journal was told of a statement",
    "the journal was told of a verdict",
    "the journal was told what nobody asks about",
}


def points_of(target: str) -> list[str]:
    """Return the places that a victim passes, whichever it is: see `kill_driver`."""
    return [point for point in POINTS if target == "kts" or point not in AT_THE_KTS]


def die() -> None:
    """End this process as a power cut would, as far as the kernel lets us."""
    os.kill(os.getpid(), signal.SIGKILL)


class FailPoint:
    """Makes one place in the code deadly."""

    def __init__(self) -> None:
        self._undo: Callable[[], None] = lambda: None

    def arm(self, armed: Armed) -> None:
        """Die when the code passes a place for the n-th time from now."""
        self._undo()
        owner, name, moment = POINTS[armed[0]]
        real, left = getattr(owner, name), [armed[1]]

        def passing(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and moment == BEFORE:
                die()
            if left[0] == 0 and moment == "half":
                descriptor, content = arguments
                real(descriptor, content[: len(content) // 2])
                die()
            answer = real(*arguments, **options)
            if left[0] == 0:
                die()
            return answer

        self._undo = lambda: setattr(owner, name, real)
        setattr(owner, name, passing)
