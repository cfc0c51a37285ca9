"""Re-checking a finished run from its transcript, without any secret.

A transcript holds the signed task and every message between the two servers that the
run's history depends on: deposits and receipts, orders and releases. `audit` replays it
through a fresh ledger and verifies signatures, proofs, lists, the hash chain, counts
and the agreement on one model per version; the first thing that is wrong is named.

The file is a magic number and records of a 4-octet big-endian length and a body. The
first body is the task, every other one an encoded envelope.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from hre_torch.crypto.modulus import load_profile
from hre_torch.errors import HREError, MessageError, RunDirectoryError
from hre_torch.protocol.ciphers import Body
from hre_torch.protocol.entries import Entry, chain_after
from hre_torch.protocol.envelope import Envelope, decode, kind_of, parse_header
from hre_torch.protocol.ledger import Ledger
from hre_torch.protocol.messages import (
    Deposit,
    Receipt,
    Release,
    ReleaseOrder,
    Upload,
)
from hre_torch.protocol.roster import Roster
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task, TaskConfig

__all__ = ["TRANSCRIPT", "AuditReport", "TranscriptWriter", "audit"]

TRANSCRIPT: Final = "transcript.bin"
_MAGIC: Final = b"HRE transcript 1\n"
_LINKS: Final = ("dsp->kts", "kts->dsp")
_HISTORY: Final = ("deposit", "receipt", "release_order", "release")
_KINDS: Final = Deposit | Receipt | ReleaseOrder | Release
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


@dataclass(slots=True)
class AuditReport:
    """What an audit saw.

    Attributes:
        suite: suite of the run.
        uploads: deposits that verified.
        releases: releases that verified.
        findings: what is wrong, in words; empty for an honest run.
    """

    suite: str = ""
    uploads: int = 0
    releases: int = 0
    findings: list[str] = field(default_factory=list)


def audit(run_dir: Path) -> AuditReport:
    """Re-check a finished run.

    The audit stops at the first record that does not verify, since everything after it
    depends on it.

    Args:
        run_dir: directory that `train --out` wrote.

    Raises:
        RunDirectoryError: there is no transcript in it, or it is not one.
    """
    path = run_dir / TRANSCRIPT
    if not path.is_file():
        raise RunDirectoryError(
            f"{run_dir} holds no {TRANSCRIPT}; audit a directory that `hre-torch train "
            "--out` wrote"
        )
    report = AuditReport()
    data = path.read_bytes()
    if not data.startswith(_MAGIC):
        raise RunDirectoryError(
            f"{path} does not start with {_MAGIC!r}: it is no transcript, or of "
            "another version"
        )
    records = _records(data)
    where = "the task"
    try:
        replay = _Replay(_read_task(next(records, b"")), report)
        report.suite = replay.task.config.suite
        for number, body in enumerate(records, start=1):
            where = f"record {number}"
            replay.feed(body)
        where = "the end of the transcript"
        replay.finish(_summary(run_dir))
    except HREError as error:
        report.findings.append(f"{where}: {error}")
    return report


class _Replay:
    """Both servers' ledger, fed from a transcript."""

    def __init__(self, task: Task, report: AuditReport) -> None:
        self.task = task
        self._report = report
        self._suite = SUITES.get(task.config.suite)
        self._suite.check(task)
        self._max_bytes = self._suite.max_message_bytes(task)
        self._ledger = Ledger(task.config, task.roster.names)
        self._ordered: ReleaseOrder | None = None

    def feed(self, body: bytes) -> None:
        envelope: Envelope[Any] = decode(
            body,
            _KINDS,  # type: ignore[arg-type]
            cfg=self.task.cfg,
            max_bytes=self._max_bytes,
        )
        header, roster = envelope.header, self.task.roster
        if isinstance(header, Deposit):
            envelope.verify(roster.data_service.signing_key)
            self._deposit(header, envelope.parts)
        elif isinstance(header, Receipt):
            envelope.verify(roster.key_transform.signing_key)
            self._ledger.accept(header.upload)
        elif isinstance(header, ReleaseOrder):
            envelope.verify(roster.data_service.signing_key)
            self._ordered = header
        else:
            envelope.verify(roster.key_transform.signing_key)
            self._release(header)

    def finish(self, summary: dict[str, Any]) -> None:
        for key, seen in (
            ("pushes", self._report.uploads),
            ("releases", self._report.releases),
            ("suite", self._report.suite),
        ):
            if key in summary and summary[key] != seen:
                raise MessageError(
                    f"summary.json says {key} = {summary[key]!r}, the transcript "
                    f"shows {seen!r}"
                )

    def _deposit(self, deposit: Deposit, parts: tuple[bytes, ...]) -> None:
        upload: Upload = parse_header(deposit.upload_header, Upload)
        if upload.cfg != self.task.cfg:
            raise MessageError("the deposit wraps an upload of another task")
        envelope = Envelope(
            upload,
            deposit.upload_header,
            (),
            deposit.upload_proof,
            deposit.upload_signature,
        )
        envelope.verify(self.task.roster.card(upload.sender).signing_key)
        if self._ledger.find(envelope.digest) is not None:
            return
        if deposit.parts != tuple(upload.parts[i] for i in self._suite.forwarded):
            raise MessageError(
                "the forwarded parts are not those that the upload's header lists"
            )
        body = Body(parts, deposit.upload_header, deposit.upload_proof)
        self._suite.check_forwarded(self.task, body)
        self._ledger.enter(Entry.of(upload, envelope.digest))
        self._report.uploads += 1

    def _release(self, release: Release) -> None:
        uploads = [item.digest for item in release.uploads]
        expired = [item.digest for item in release.expired]
        ordered = self._ordered
        if ordered is None or list(ordered.uploads) != uploads:
            raise MessageError(
                f"release {release.version} lists uploads that the DSP never ordered"
            )
        proposal = self._ledger.check(release.version, uploads, expired)
        chain = chain_after(
            self._ledger.chain,
            release.version,
            release.uploads,
            release.expired,
            release.commitment,
        )
        if (release.previous, release.chain) != (self._ledger.chain, chain):
            raise MessageError(
                f"the hash chain of release {release.version} does not recompute"
            )
        self._ledger.release(proposal, release.commitment)
        self._report.releases += 1


def _records(data: bytes) -> Iterator[bytes]:
    start = len(_MAGIC)
    while start < len(data):
        size = int.from_bytes(data[start : start + _LENGTH_OCTETS], "big")
        body = data[start + _LENGTH_OCTETS : start + _LENGTH_OCTETS + size]
        if len(body) != size:
            raise MessageError(
                f"a record of {size} octets is announced, but only {len(body)} follow: "
                "the transcript is cut off"
            )
        yield body
        start += _LENGTH_OCTETS + size


def _read_task(body: bytes) -> Task:
    try:
        record = msgspec.msgpack.decode(body, type=_TaskRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"the task is unreadable: {error}") from None
    parameters = load_profile(record.config.profile)
    return Task(record.config, record.roster, parameters, record.signature)


def _summary(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "summary.json"
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"summary.json is unreadable: {error}") from None
