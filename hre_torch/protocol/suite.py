"""What a suite is: the cryptography behind the roles, and nothing of their bookkeeping.

The roles (`participant.py`, `data_service.py`, `key_transform.py`) keep ledgers, check
signatures and pass messages; whatever depends on the suite sits behind three small
ciphers, one per role. A third party adds a suite by subclassing `Suite` and registering
it in `hre_torch.protocol.suites.SUITES`.

The three ciphers of a suite: what each role computes, without any bookkeeping.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import MessageError, TaskError
from hre_torch.protocol.roster import (
    DATA_SERVICE,
    KEY_TRANSFORM,
    KeyCard,
    Role,
    Roster,
    Secret,
)
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

__all__ = [
    "Body",
    "DataServiceCipher",
    "Integers",
    "KeyTransformCipher",
    "ParticipantCipher",
    "Parts",
    "Plan",
    "SealedBody",
    "Suite",
    "Workload",
    "new_identity",
    "no_proof",
]

Parts = tuple[bytes, ...]
"""Parts of a body. A long one may be a read-only memoryview: see `envelope`."""
Integers = npt.NDArray[np.signedinteger]
Total = TypeVar("Total")
Prover = Callable[[bytes], bytes]


def no_proof(header: bytes) -> bytes:
    """Return the empty proof of a suite that asks for none."""
    return b""


@dataclass(frozen=True, slots=True)
class SealedBody:
    """Body of an upload before it is signed.

    Attributes:
        parts: what travels.
        prove: makes the proof, once the header with the hashes of all parts is known.
    """

    parts: Parts
    prove: Prover = field(default=no_proof, repr=False)


@dataclass(frozen=True, slots=True)
class Body:
    """What arrives of an upload: at the DSP all parts, at the KTS the forwarded ones.

    Attributes:
        parts: as they travelled; their hashes are checked against the header.
        header: the exact header bytes, which the proof is bound to.
        proof: the proof.
    """

    parts: Parts
    header: bytes = b""
    proof: bytes = b""


class ParticipantCipher(ABC):
    """Seals updates and opens downloads."""

    @abstractmethod
    def encrypt(self, values: Integers) -> SealedBody:
        """Return the body of an upload.

        Args:
            values: quantised, shape `(n_sealed,)`, int32, or int16 where they fit.
        """

    @abstractmethod
    def decrypt(self, parts: Parts, count: int) -> Integers:
        """Return the sum in a download.

        Args:
            parts: body of the download.
            count: how many uploads the signed lists say it sums.

        Returns:
            int64, or int32 where every sum fits, shape `(n_sealed,)`.

        Raises:
            ChecksumError, SlotOverflowError: the content is not a sum of `count`
                updates; see `Suite.judged` for what follows.
            DecryptionError, InvalidElementError: the key transform went wrong.
        """

    def commitment(self, parts: Parts) -> bytes:
        """Return the hash that the signed release must hold for this body.

        Empty where a release commits to its list of uploads only.
        """
        return b""


class DataServiceCipher(ABC, Generic[Total]):
    """Adds uploads and runs the first phase."""

    @abstractmethod
    def load(self, body: Body) -> Total:
        """Check and decode the body of an upload.

        Raises:
            InvalidElementError, MessageError: it is malformed.
            ProofError: its proof does not verify.
        """

    @abstractmethod
    def add(self, totals: Sequence[Total]) -> Total:
        """Return the sum of one or more uploads (or sums of them)."""

    def merge(self, releases: Sequence[Total]) -> Total:
        """Return the sum of consecutive releases, for a recipient that is behind.

        A single release is returned itself, with whatever is cached in it.
        """
        return releases[0] if len(releases) == 1 else self.add(releases)

    def forward(self, total: Total) -> Parts:
        """Return the parts of a single upload that the KTS gets as well."""
        return ()

    def commitment(self, total: Total) -> bytes:
        """Return the hash of a sum that the KTS signs into the release, if any."""
        return b""

    @abstractmethod
    def begin(self, total: Total, recipient: str) -> tuple[Parts, Any]:
        """Return the body of a transform request, and what `finish` will need."""

    @abstractmethod
    def finish(self, kept: Any, reply: Parts) -> Parts:
        """Return the body of the download.

        Args:
            kept: what `begin` returned for this request.
            reply: body of the KTS's reply.

        Raises:
            InvalidElementError, MessageError: the reply is malformed.
        """

    @abstractmethod
    def dump(self, total: Total) -> Parts:
        """Return a sum as bytes that `restore` reads."""

    @abstractmethod
    def restore(self, parts: Parts) -> Total:
        """Return a sum from the bytes that `dump` wrote."""


class KeyTransformCipher(ABC, Generic[Total]):
    """Logs what the suite forwards of an upload, and runs the second phase."""

    @abstractmethod
    def load(self, body: Body) -> Total:
        """Check and decode the forwarded parts of an upload.

        Raises:
            InvalidElementError, MessageError: they are malformed.
            ProofError: the proof does not verify.
        """

    @abstractmethod
    def add(self, totals: Sequence[Total]) -> Total:
        """Return the KTS's own sum of one or more uploads."""

    @abstractmethod
    def transform(self, total: Total, request: Parts, recipient: str) -> Parts:
        """Return the body of a transform reply.

        Args:
            total: the KTS's own sum of the releases asked for.
            request: body of the DSP's request.
            recipient: whose key the answer is for.

        Raises:
            InvalidElementError, MessageError: the request is malformed.
        """

    @abstractmethod
    def dump(self, total: Total) -> Parts:
        """Return a sum as bytes that `restore` reads."""

    @abstractmethod
    def restore(self, parts: Parts) -> Total:
        """Return a sum from the bytes that `dump` wrote."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What `Suite.plan` needs to know before any key exists.

    Attributes:
        n_values: how many values an upload holds.
        participants: how many take part.
        value_bits: `b`.
        max_additions: `K`.
    """

    n_values: int
    participants: int
    value_bits: int
    max_additions: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Predicted cost of one upload and of one download by one recipient.

    Attributes:
        plaintexts: packed plaintexts per upload (0 where nothing is packed).
        upload_bytes: body of one upload.
        download_bytes: body of one download.
        server_bytes: what the two servers exchange for one recipient.
        multiplications: phase to number of modular multiplications mod n^2 that the
            workers share.
        unshared: the same for those of one process, however many workers there are.
        table_bytes: role to memory of its fixed-base tables.
        recipient_bytes: memory of one recipient's tables at each server.
        words: Ring-LWE words per upload, in the suite that masks with them.
    """

    plaintexts: int
    upload_bytes: int
    download_bytes: int
    server_bytes: int
    multiplications: Mapping[str, int] = field(default_factory=dict)
    unshared: Mapping[str, int] = field(default_factory=dict)
    table_bytes: Mapping[str, int] = field(default_factory=dict)
    recipient_bytes: int = 0
    words: int = 0


class Suite(ABC):
    """The cryptography of one protocol.

    Attributes:
        name: what `TaskConfig.suite` says.
        protects: one sentence on what it protects against, for people.
        baseline: whether it is for comparison only: somebody who should not can read
            a single participant's updates.
        judged: whether a release whose content does not decode is given up by verdict
            only, see `statements`. Elsewhere its content alone decides: such a suite
            withstands no cheating server, so all are served the same content, and its
            t may be smaller than the number of identities that a verdict takes.
        merges: whether consecutive releases may be opened as one sum; see `merges_in`.
        least_contributions: smallest `t` that the suite allows.
        default_max_additions: K where nobody chose one.
        forwarded: indices of the upload's parts that the KTS gets as well.
    """

    name: ClassVar[str]
    protects: ClassVar[str]
    baseline: ClassVar[bool] = False
    judged: ClassVar[bool] = False
    merges: ClassVar[bool] = True
    least_contributions: ClassVar[int] = 1
    default_max_additions: ClassVar[int] = 256
    forwarded: ClassVar[tuple[int, ...]] = ()

    def default_contributions(self, participants: int) -> int:
        """Return t where nobody chose one: 1, or max(3, ceil(P/2)) if t matters."""
        if self.least_contributions == 1:
            return 1
        return max(self.least_contributions, math.ceil(participants / 2))

    def merges_in(self, combine: str, n_buffers: int, clip: float | None) -> bool:
        """Whether consecutive releases may be opened as one sum in such a task.

        Weighted ones may not, nor those with averaged buffers: each release is divided
        by its own sum of weights, or by its own number of uploads. Nor may those with a
        clip, since each release has a bound of its own.
        """
        single = combine == "weighted" or n_buffers or clip is not None
        return self.merges and not single

    @abstractmethod
    def plan(self, parameters: Parameters, workload: Workload) -> Plan:
        """Predict bytes, multiplications and table memory."""

    @abstractmethod
    def keygen(
        self,
        role: Role,
        name: str,
        parameters: Parameters,
        entropy: Entropy = SYSTEM_ENTROPY,
    ) -> tuple[Secret, KeyCard]:
        """Make one role's keys; the secret stays with the role."""

    @abstractmethod
    def joint_key(
        self, secret: Secret, own: KeyCard, other: KeyCard, parameters: Parameters
    ) -> tuple[bytes, ...]:
        """Return the joint key as one server computes it from both cards."""

    def agreed_key(
        self, one: KeyCard, other: KeyCard, parameters: Parameters
    ) -> tuple[bytes, ...] | None:
        """Return the joint key if two cards are enough to compute it, else None."""
        return None

    def setup(
        self,
        names: Sequence[str],
        parameters: Parameters,
        *,
        operator: bytes,
        entropy: Entropy = SYSTEM_ENTROPY,
    ) -> tuple[dict[str, Secret], Roster]:
        """Make everybody's keys in one place: for a federation in one process.

        Args:
            names: the participants.
            parameters: the modulus profile.
            operator: Ed25519 public key of whoever will sign the task.
            entropy: source of all keys.

        Returns:
            Secrets by name (the servers' names are `"dsp"` and `"kts"`), and the
            roster, in which both servers' computations of the joint key agree.

        Raises:
            TaskError: the servers compute different joint keys.
        """
        made = {
            DATA_SERVICE: self.keygen("dsp", DATA_SERVICE, parameters, entropy),
            KEY_TRANSFORM: self.keygen("kts", KEY_TRANSFORM, parameters, entropy),
        }
        for name in names:
            made[name] = self.keygen("participant", name, parameters, entropy)
        dsp_secret, dsp_card = made[DATA_SERVICE]
        kts_secret, kts_card = made[KEY_TRANSFORM]
        joint = self.joint_key(dsp_secret, dsp_card, kts_card, parameters)
        if joint != self.joint_key(kts_secret, kts_card, dsp_card, parameters):
            raise TaskError(
                "the two servers publish different joint keys: one of the key cards "
                "was exchanged or damaged; make and compare them again"
            )
        cards = tuple(made[name][1] for name in names)
        roster = Roster(operator, dsp_card, kts_card, cards, joint)
        return {name: secret for name, (secret, _) in made.items()}, roster

    def check(self, task: Task) -> None:
        """Check the rules that only this suite has.

        Raises:
            TaskError: the task breaks one.
        """
        t = task.config.min_contributions
        if t < self.least_contributions:
            raise TaskError(
                f"suite {self.name!r} needs min_contributions (t) of at least "
                f"{self.least_contributions}, not {t}: with fewer, a sum minus one's "
                "own update shows another participant's"
            )

    def check_forwarded(self, task: Task, body: Body) -> None:
        """Check what the KTS gets of an upload, without any secret: for audits.

        Raises:
            MessageError, InvalidElementError, ProofError: it does not verify.
        """
        if body.parts or body.proof:
            raise MessageError(
                f"suite {self.name!r} forwards nothing of an upload, but there are "
                f"{len(body.parts)} parts and {len(body.proof)} octets of proof"
            )

    @abstractmethod
    def upload_sizes(self, task: Task) -> tuple[int, ...]:
        """Return the exact size of every part of an upload, for checks before work."""

    def proof_size(self, task: Task) -> int:
        """Return the exact size of an upload's proof; 0 where the suite asks none."""
        return 0

    def max_message_bytes(self, task: Task) -> int:
        """Return the most octets of body and proof of any message of this task."""
        plan = self.plan(
            task.parameters,
            Workload(
                task.config.n_sealed,
                len(task.roster.participants),
                task.config.value_bits,
                task.config.max_additions,
            ),
        )
        body = max(plan.upload_bytes, plan.download_bytes, plan.server_bytes)
        return body + self.proof_size(task)

    @abstractmethod
    def participant(
        self, task: Task, secret: Secret, workers: Workers
    ) -> ParticipantCipher:
        """Return the participant's half of the suite."""

    @abstractmethod
    def data_service(
        self, task: Task, secret: Secret, workers: Workers
    ) -> DataServiceCipher[Any]:
        """Return the DSP's half of the suite."""

    @abstractmethod
    def key_transform(
        self, task: Task, secret: Secret, workers: Workers
    ) -> KeyTransformCipher[Any]:
        """Return the KTS's half of the suite."""


def new_identity(
    role: Role,
    name: str,
    suite: str,
    public: tuple[bytes, ...],
    material: bytes,
    entropy: Entropy,
) -> tuple[Secret, KeyCard]:
    """Return a secret with a fresh signing key, and its card."""
    signing = SigningKey.generate(entropy)
    card = KeyCard(role, name, suite, signing.public, public)
    return Secret(role, name, suite, signing, material), card
