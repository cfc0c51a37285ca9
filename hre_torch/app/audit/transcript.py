"""The file that holds what a run's history depends on, in the order of its events.

A transcript is a magic number and records of a 4-octet big-endian length and a body.
The first body is the signed task, every other one an encoded envelope as it crossed the
link between the servers: deposits and receipts, orders and releases, what participants
state of releases and the verdicts on that. At the end of a run each server signs where
its ledger stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.errors import MessageError
from hre_torch.protocol.roster import Roster
from hre_torch.protocol.task import Task, TaskConfig
from hre_torch.protocol.wire import kind_of

__all__ = ["TRANSCRIPT", "TranscriptWriter", "read_records", "read_task"]

TRANSCRIPT: Final = "transcript.bin"
_MAGIC: Final = b"HRE transcript 2\n"
_LINKS: Final = ("dsp->kts", "kts->dsp")
_HISTORY: Final = (
    "deposit",
    "receipt",
    "release_order",
    "release",
    "statement",
    "verdict",
    "ledger_head",
)
_LENGTH_OCTETS: Final = 4


class _TaskRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    config: TaskConfig
    roster: Roster
    signature: bytes


class TranscriptWriter:
    """Appends what crosses the link between the servers to a file; a `Tap`.

    Args:
        path: file to write; made with the task if it does not exist.
        task: the task of the run.
    """

    def __init__(self, path: Path, task: Task) -> None:
        self._path = path
        self._task = task
        fresh = not path.exists()
        self._file = path.open("ab")
        if fresh:
            record = _TaskRecord(task.config, task.roster, task.signature)
            self._file.write(_MAGIC)
            self._write(msgspec.msgpack.encode(record))

    def __call__(self, link: str, data: bytes) -> None:
        """Keep a message if the run's history depends on it."""
        if link in _LINKS and kind_of(data) in _HISTORY:
            self._write(data)

    def flush(self) -> None:
        """Make sure that everything so far is on disk, for a checkpoint."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, body: bytes) -> None:
        self._file.write(len(body).to_bytes(_LENGTH_OCTETS, "big") + body)


def read_records(file: BinaryIO, *, killed: bool = False) -> Iterator[bytes]:
    """Yield the bodies of a transcript, the task first.

    Args:
        file: the transcript.
        killed: whether its run was killed, which may have cut off the last record; then
            that one is passed over.

    Raises:
        MessageError: it is no transcript, or ends within a record.
    """
    start = file.read(len(_MAGIC))
    if start != _MAGIC:
        raise MessageError(
            f"it starts with {start!r}, not with {_MAGIC!r}: it is no transcript, or "
            "one that another version of hre_torch made"
        )
    while prefix := file.read(_LENGTH_OCTETS):
        size = int.from_bytes(prefix, "big")
        body = file.read(size)
        if len(prefix) < _LENGTH_OCTETS or len(body) < size:
            if killed:
                return
            raise MessageError(
                f"a record of {size} octets is announced, but only {len(body)} follow: "
                "the transcript is cut off"
            )
        yield body


def read_task(body: bytes) -> Task:
    """Return the task that the first record of a transcript holds, checked.

    Raises:
        MessageError: it is unreadable.
        HREError: the task breaks a rule, or its operator has not signed it.
    """
    try:
        record = msgspec.msgpack.decode(body, type=_TaskRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"the task is unreadable: {error}") from None
    parameters = load_profile(record.config.profile)
    return Task(record.config, record.roster, parameters, record.signature)
