"""A DSP with two faces, for A11: it keeps its own books and shows different sums.

It knows what a DSP knows, computes what a DSP computes, and is bound only by what the
KTS signs and what participants accept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.attacks.algebra import blocks_of, lanes_of
from benchmarks.attacks.words import decode_words, encode_words, plain_words
from hre_torch.participant.aggregator import Aggregator
from hre_torch.participant.participant import LearningParticipant
from hre_torch.protocol.entries import GENESIS
from hre_torch.protocol.messages import (
    Ack,
    Download,
    Receipt,
    Release,
    ReleaseOrder,
    Statement,
    StatementReply,
    TransformReply,
    TransformRequest,
    Upload,
    Verdict,
)
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import DataServiceCipher, Parts
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope, Refusal, decode, seal

__all__ = [
    "EVERYBODY",
    "Connection",
    "Lie",
    "TwoFacedDataService",
    "View",
    "shift_secret",
    "shift_values",
    "spoil_count",
]

EVERYBODY: Final = ""
"""In place of a name: the sum itself is shifted, and with it every download."""

Lie = Callable[[Task, Parts, int], Parts]


@dataclass(frozen=True, slots=True)
class View:
    """What the DSP and mallory hold together, and the doors of the KTS they know.

    Attributes:
        task: public.
        dsp: the DSP's keys.
        arithmetic: what the DSP computes with.
        accomplice: mallory's own end of the protocol.
        deposit: brings an upload to the KTS.
        approve: the KTS's answer to a release order.
        transform: the KTS's answer to a transform request.
        declare: the KTS's answer to a statement.
    """

    task: Task
    dsp: Secret
    arithmetic: DataServiceCipher[Any]
    accomplice: LearningParticipant
    deposit: Callable[[Envelope[Upload]], Envelope[Receipt]]
    approve: Callable[[Envelope[ReleaseOrder]], Envelope[Release]]
    transform: Callable[[Envelope[TransformRequest]], Envelope[TransformReply]]
    declare: Callable[[Envelope[Statement]], Envelope[Verdict]]


class TwoFacedDataService:
    """The DSP and mallory, at work.

    Args:
        view: what they know and can do.
        lie: shifts the sum in a message.
        shifts: name and version to how far, where somebody is lied to.
    """

    def __init__(
        self, view: View, lie: Lie, shifts: Mapping[tuple[str, int], int]
    ) -> None:
        self.view, self._lie, self._shifts = view, lie, shifts
        self._newest: dict[str, Envelope[Upload]] = {}
        self._released: list[tuple[Envelope[Release], Any]] = []

    @property
    def version(self) -> int:
        """Number of releases so far."""
        return len(self._released)

    def receive(self, upload: Envelope[Upload]) -> Envelope[Ack] | Envelope[Refusal]:
        """Pass an upload on, and keep it as its sender's newest."""
        self.view.deposit(upload)
        self._newest[upload.header.sender] = upload
        return self.acknowledge(upload)

    def acknowledge(self, upload: Envelope[Upload]) -> Envelope[Ack]:
        """Return the acknowledgement of an upload, wherever that is."""
        ack = Ack(
            cfg=self.view.task.cfg,
            sender=self.view.dsp.name,
            upload=upload.digest,
            sequence=upload.header.sequence,
            version=self.version,
        )
        return seal(ack, self.view.dsp.signing)

    def join_in(self, raised: int = 0) -> None:
        """Have mallory upload, as the third identity, by how much the last value grows.

        By default that is nothing.
        """
        config = self.view.task.config
        values = np.zeros(config.n_values, dtype=np.int32)
        values[-1] = raised
        accomplice = self.view.accomplice
        opened = accomplice.state()
        # What she says of herself is true of everybody: that it began with nothing.
        accomplice.rebase(0, GENESIS)
        self.receive(accomplice.seal(values, 0, config.initial_digest))
        accomplice.rebase(opened.version, opened.chain)

    def release(
        self, chosen: Sequence[Envelope[Upload]] = ()
    ) -> npt.NDArray[np.int64] | None:
        """Have uploads released, everybody's newest by default.

        Returns:
            The sum, as mallory opens it.

        Raises:
            ReleaseError: the KTS refuses the list.
        """
        arithmetic, task = self.view.arithmetic, self.view.task
        uploads, version = chosen or self._newest.values(), self.version + 1
        total = arithmetic.add([arithmetic.restore(each.parts) for each in uploads])
        parts = self._shifted(arithmetic.dump(total), EVERYBODY, version)
        total = arithmetic.restore(parts)
        order = ReleaseOrder(
            cfg=task.cfg,
            sender=self.view.dsp.name,
            version=version,
            uploads=tuple(upload.digest for upload in uploads),
            commitment=arithmetic.commitment(total),
        )
        release = self.view.approve(seal(order, self.view.dsp.signing))
        self._released.append((release, total))
        accomplice = self.view.accomplice
        shown = self.download(accomplice.name, version).encode()
        values = accomplice.open(shown).values
        if values is not None:
            # Both know what they have shown to everybody, mallory included.
            values[-1] -= self._shifts.get((EVERYBODY, version), 0)
        return values

    def download(self, name: str, version: int) -> Envelope[Download]:
        """Return what a participant is shown of a release."""
        view = self.view
        release, total = self._released[version - 1]
        body, kept = view.arithmetic.begin(total, name)
        request = TransformRequest(
            cfg=view.task.cfg,
            sender=view.dsp.name,
            recipient=name,
            first=version,
            last=version,
        )
        reply = view.transform(seal(request, view.dsp.signing, body))
        parts = view.arithmetic.finish(kept, reply.parts)
        download = Download(
            cfg=view.task.cfg,
            sender=view.dsp.name,
            recipient=name,
            releases=(release.encode(),),
            version=self.version,
        )
        return seal(download, view.dsp.signing, self._shifted(parts, name, version))

    def pass_on(self, statement: Envelope[Statement]) -> Envelope[StatementReply]:
        """Return what the KTS answers to a statement, which cannot be changed."""
        reply = StatementReply(
            cfg=self.view.task.cfg,
            sender=self.view.dsp.name,
            statement=statement.digest,
            verdict=self.view.declare(statement).encode(),
        )
        return seal(reply, self.view.dsp.signing)

    def _shifted(self, parts: Parts, name: str, version: int) -> Parts:
        by = self._shifts.get((name, version), 0)
        return self._lie(self.view.task, parts, by) if by else parts


class Connection(Aggregator):
    """An honest participant's connection, at whose far end the DSP has two faces."""

    def __init__(self, name: str, dsp: TwoFacedDataService) -> None:
        self._name, self._dsp = name, dsp

    def submit(self, upload: bytes) -> bytes:
        """Hand over an upload."""
        return self._dsp.receive(decode(upload, Upload, max_bytes=len(upload))).encode()

    def fetch(self, since: int, *, merge: bool = True) -> Iterator[bytes]:
        """Yield what is new."""
        for version in range(since + 1, self._dsp.version + 1):
            yield self._dsp.download(self._name, version).encode()

    def declare(self, statement: bytes) -> bytes:
        """State something about a release."""
        stated = decode(statement, Statement, max_bytes=0)
        return self._dsp.pass_on(stated).encode()

    def close(self) -> None:
        """Nothing to give back."""


def shift_values(task: Task, parts: Parts, by: int) -> Parts:
    """Return a sum or a download whose last value is shifted, its count unchanged."""
    shift = np.zeros(task.config.n_values, dtype=np.int64)
    shift[-1] = by
    if task.config.suite == "hybrid":
        words = decode_words(parts) + plain_words(shift, 0, task)
        return (*parts[:-1], encode_words(words))
    return _shift_lanes(task, parts, shift)


def shift_secret(task: Task, parts: Parts, by: int) -> Parts:
    """Return a sum or a download of `hybrid` with another sum of secrets."""
    shift = np.zeros(lanes_of(task).n_values, dtype=np.int64)
    shift[-1] = by
    return _shift_lanes(task, parts, shift)


def spoil_count(task: Task, parts: Parts, by: int) -> Parts:
    """Return a download whose first lane counts more uploads than there are."""
    lanes = lanes_of(task)
    n, n_squared = lanes.parameters.n, lanes.parameters.n_squared
    heads, (first, *others) = blocks_of(parts, lanes)
    spoiled = (first[0] * (1 + by * n) % n_squared, *first[1:])
    return (*lanes.layout.encode(heads, [spoiled, *others]), *parts[2:])


def _shift_lanes(task: Task, parts: Parts, shift: npt.NDArray[np.int64]) -> Parts:
    lanes = lanes_of(task)
    n, n_squared = lanes.parameters.n, lanes.parameters.n_squared
    # Plaintexts are linear in their values, and a difference of two counts no upload.
    unit = lanes.packing.pack(np.sign(shift).astype(np.int32))
    nothing = lanes.packing.pack(np.zeros(shift.size, dtype=np.int32))
    by = int(np.abs(shift).max())
    deltas = [by * (m - zero) for m, zero in zip(unit, nothing, strict=True)]
    heads, blocks = blocks_of(parts, lanes)
    shifted = [
        [x * (1 + m * n) % n_squared for x, m in zip(row, some, strict=True)]
        for row, some in zip(blocks, lanes.layout.split(deltas), strict=True)
    ]
    return (*lanes.layout.encode(heads, shifted), *parts[2:])
