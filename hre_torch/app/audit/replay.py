"""A run's history, replayed from its transcript without any secret.

Every record goes through a fresh ledger; signatures, proofs, lists, the hash chain,
counts and the agreement on one model per version are verified on the way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from hre_torch.crypto.keys.signatures import SIGNATURE_BYTES
from hre_torch.errors import MessageError
from hre_torch.protocol.entries import Entry, chain_after
from hre_torch.protocol.heads import LedgerHead
from hre_torch.protocol.ledger import Ledger
from hre_torch.protocol.messages import (
    Deposit,
    Receipt,
    Release,
    ReleaseOrder,
    Statement,
    Upload,
    Verdict,
)
from hre_torch.protocol.suite import Body
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope, decode, parse_header, signed_bytes
from hre_torch.servers.journal import Journal
from hre_torch.servers.statements import Statements

__all__ = ["History", "Replay"]

_KINDS: Final = (
    Deposit | Receipt | ReleaseOrder | Release | Statement | Verdict | LedgerHead
)


@dataclass(slots=True)
class History:
    """What a transcript shows.

    Attributes:
        task: the task that its operator has signed.
        uploads: deposits that verified.
        upload_bytes: octets of these uploads as their owners sent them.
        releases: releases that verified, oldest first.
        bases: the version that each upload builds on, by the upload's digest.
        given_up: releases on which there is a verdict that they are spoiled.
        settled: the newest version whose model c + 1 identities name, and what upload
            headers say of that model.
        concluded: names of the servers that have signed the end.
    """

    task: Task
    uploads: int = 0
    upload_bytes: int = 0
    releases: list[Release] = field(default_factory=list)
    bases: dict[bytes, int] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)
    settled: tuple[int, bytes] = (0, b"")
    concluded: set[str] = field(default_factory=set)


class Replay:
    """Both servers' ledger, fed from a transcript.

    Args:
        task: the task of the transcript.

    Attributes:
        history: what was seen so far.
    """

    def __init__(self, task: Task) -> None:
        self.history = History(task)
        self._task = task
        self._suite = SUITES.get(task.config.suite)
        self._suite.check(task)
        self._max_bytes = self._suite.max_message_bytes(task)
        self._ledger = Ledger(task.config, task.roster.names)
        self._statements = Statements(task, Journal())
        self._ordered: ReleaseOrder | None = None
        self.history.settled = self._ledger.settled()

    def feed(self, body: bytes) -> None:
        """Take in the next record.

        Raises:
            HREError: it does not verify, or does not follow what came before.
        """
        envelope: Envelope[Any] = decode(
            body,
            _KINDS,  # type: ignore[arg-type]
            cfg=self._task.cfg,
            max_bytes=self._max_bytes,
        )
        header, roster = envelope.header, self._task.roster
        dsp, kts = roster.data_service, roster.key_transform
        if self.history.concluded and not isinstance(header, LedgerHead):
            raise MessageError("it follows the end that a server has signed")
        if isinstance(header, Statement):
            envelope.verify(roster.participant(header.sender).signing_key)
            self._statement(header, envelope)
        elif isinstance(header, LedgerHead):
            envelope.verify(roster.card(header.sender).signing_key)
            self._conclude(header)
        elif isinstance(header, Deposit | ReleaseOrder):
            envelope.verify(dsp.signing_key)
            if isinstance(header, Deposit):
                self._deposit(header, envelope.parts)
            else:
                self._ordered = header
        else:
            envelope.verify(kts.signing_key)
            if isinstance(header, Receipt):
                self._receipt(header)
            elif isinstance(header, Release):
                self._release(header)
            else:
                self._verdict(header)

    def _deposit(self, deposit: Deposit, parts: tuple[bytes, ...]) -> None:
        upload: Upload = parse_header(deposit.upload_header, Upload)
        if upload.cfg != self._task.cfg:
            raise MessageError("the deposit wraps an upload of another task")
        envelope = Envelope(
            upload,
            deposit.upload_header,
            (),
            deposit.upload_proof,
            deposit.upload_signature,
        )
        envelope.verify(self._task.roster.card(upload.sender).signing_key)
        if self._ledger.find(envelope.digest) is not None:
            return
        if deposit.parts != tuple(upload.parts[i] for i in self._suite.forwarded):
            raise MessageError(
                "the forwarded parts are not those that the upload's header lists"
            )
        body = Body(parts, deposit.upload_header, deposit.upload_proof)
        self._suite.check_forwarded(self._task, body)
        self._ledger.enter(Entry.of(upload, envelope.digest))
        history = self.history
        history.uploads += 1
        history.upload_bytes += _size_of(envelope)
        history.bases[envelope.digest] = upload.base_version

    def _receipt(self, receipt: Receipt) -> None:
        entry = self._ledger.find(receipt.upload)
        if entry is not None and entry.status == "pending":
            # What it voids can be in no list from here on.
            self._ledger.strike(entry)
        self._ledger.accept(receipt.upload)

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
        self.history.releases.append(release)
        self.history.settled = self._statements.settled(self._ledger)

    def _statement(self, header: Statement, envelope: Envelope[Statement]) -> None:
        self._require_release(header.version, header.chain, "a statement")
        self._statements.add(envelope)
        self.history.settled = self._statements.settled(self._ledger)

    def _verdict(self, verdict: Verdict) -> None:
        self._require_release(verdict.version, verdict.chain, "a verdict")
        if not verdict.final:
            return
        colluders = self._task.config.assumed_colluders
        stated = self._statements.rejected(verdict.version)
        rejected = stated.intersection(verdict.rejected)
        if len(rejected) < colluders + 2 or len(verdict.opened) > colluders:
            raise MessageError(
                f"release {verdict.version} is given up, but {len(rejected)} state "
                f"that they reject it and {len(verdict.opened)} have opened it; it "
                f"takes {colluders + 2}, and at most {colluders}"
            )
        self.history.given_up.add(verdict.version)

    def _require_release(self, version: int, chain: bytes, what: str) -> None:
        releases = self.history.releases
        known = version <= len(releases) and releases[version - 1].chain == chain
        if version < 1 or not known:
            raise MessageError(
                f"{what} is about another release {version} than the transcript shows"
            )

    def _conclude(self, head: LedgerHead) -> None:
        """Compare where a server says that its ledger stands with the replayed one."""
        history, ledger = self.history, self._ledger
        waiting = Counter(e.name for e in ledger.unreleased() if e.status == "accepted")
        names = self._task.roster.names
        for what, signed, shown in (
            ("releases", head.version, ledger.version),
            ("hash chain", head.chain.hex()[:16], ledger.chain.hex()[:16]),
            (
                "uploads that wait",
                {count.name: count.waiting for count in head.counts},
                {name: waiting[name] for name in names},
            ),
            ("settled version", head.settled_version, history.settled[0]),
            ("model", head.settled_digest.hex()[:16], history.settled[1].hex()[:16]),
        ):
            if signed != shown:
                raise MessageError(
                    f"the {head.sender} has signed an end with {what}: {signed}, but "
                    f"the transcript shows {shown}"
                )
        history.concluded.add(head.sender)


def _size_of(upload: Envelope[Upload]) -> int:
    """Return how many octets an upload has on the wire."""
    head = len(signed_bytes(upload.header_bytes, upload.proof)) + SIGNATURE_BYTES
    return head + sum(part.size for part in upload.header.parts)
