"""The stage of every attack: a small federation of real roles, one message at a time.

Alice and bob are honest, mallory may be anybody's accomplice. Messages cross links as
bytes, and `wire` keeps what a wire-tapper hears. Updates are seeded and drawn at
random; keys and masks never are seeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.attacks.result import Refusals
from benchmarks.attacks.weakened import (
    DataServiceWeakened,
    KeyTransformWeakened,
    ParticipantWeakened,
    decode_without_hashes_weakened,
    variant_of,
)
from hre_torch.crypto.dcr.modulus import Parameters, load_profile
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import ReleaseError
from hre_torch.participant.aggregator import Aggregator
from hre_torch.participant.participant import LearningParticipant
from hre_torch.participant.session import Session
from hre_torch.protocol.messages import (
    Ack,
    Deposit,
    Download,
    Receipt,
    Release,
    ReleaseOrder,
    TransformReply,
    TransformRequest,
    Upload,
)
from hre_torch.protocol.roster import DATA_SERVICE, KEY_TRANSFORM, Roster, Secret
from hre_torch.protocol.suite import DataServiceCipher, Parts
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task, sign_task
from hre_torch.protocol.task_options import TaskOptions
from hre_torch.protocol.vectors import state_digest
from hre_torch.protocol.wire import Envelope, Header, decode, seal
from hre_torch.protocol.workers import Workers
from hre_torch.servers.data_service import DataServiceProvider
from hre_torch.servers.key_transform import KeyTransformServer

__all__ = ["CAST", "Scene", "make_task", "seeded", "transform_request"]

CAST: Final = ("alice", "bob", "mallory")
_N_VALUES: Final = 100
"""Two blocks at toy size, two lanes at 2048 bits: attacks must cope with several."""
_LIMIT: Final = 32767
_MAX_BYTES: Final = 1 << 30

Values = npt.NDArray[np.int32]
Sums = npt.NDArray[np.int64]
H = TypeVar("H", bound=Header)


class Scene:
    """Everybody's roles, and who has said what to whom.

    Args:
        label: a suite or a weakened variant of one.
        seed: seed of the updates.
        profile: modulus profile.
        contributions: t.
        names: the participants.
        initial: released weights at the start, int64; zeros where left out.
        parameters: a modulus of the attack's own, in place of `profile`.
    """

    def __init__(
        self,
        label: str,
        seed: int,
        profile: str,
        *,
        contributions: int = 3,
        names: Sequence[str] = CAST,
        initial: npt.NDArray[np.int64] | None = None,
        parameters: Parameters | None = None,
    ) -> None:
        self._variant = variant_of(label)
        self.parameters = parameters or load_profile(profile)
        operator = SigningKey.generate()
        suite = SUITES.get(self._variant.suite)
        self.secrets, roster = suite.setup(
            names, self.parameters, operator=operator.public
        )
        if initial is None:
            initial = np.zeros(_N_VALUES, dtype=np.int64)
        self.task = make_task(
            suite.name, roster, self.parameters, operator, contributions, initial
        )
        self.data_service = self._data_service()
        self.key_transform = self._key_transform()
        self.participants = {name: self._participant(name) for name in names}
        self.wire: list[tuple[str, Envelope[Any]]] = []
        self._generator = seeded(seed)

    def draw(self) -> Values:
        """Return a random update, int32, shape `(n_values,)`."""
        shape = self.task.config.n_values
        return self._generator.integers(-_LIMIT, _LIMIT + 1, shape).astype(np.int32)

    def seal(self, name: str, values: Values) -> Envelope[Upload]:
        """Return an honest upload of an update computed on the initial weights."""
        digest = self.task.config.initial_digest
        return self.participants[name].seal(values, 0, digest)

    def deliver(self, upload: Envelope[Upload]) -> Envelope[Ack]:
        """Carry an upload through both servers until it is accepted.

        Raises:
            HREError: a server refuses it.
        """
        sent = self._cross(f"{upload.header.sender}->dsp", upload, Upload)
        deposit = self._cross("dsp->kts", self.data_service.admit(sent), Deposit)
        receipt = self.key_transform.deposit(deposit)
        return self.data_service.confirm(self._cross("kts->dsp", receipt, Receipt))

    def smuggle(self, upload: Envelope[Upload]) -> Envelope[Receipt]:
        """Carry an upload past a DSP that connives, straight to the KTS.

        Raises:
            HREError: the KTS refuses it.
        """
        forwarded = SUITES.get(self.task.config.suite).forwarded
        deposit = Deposit(
            cfg=self.task.cfg,
            sender=DATA_SERVICE,
            upload_header=upload.header_bytes,
            upload_proof=upload.proof,
            upload_signature=upload.signature,
        )
        signing = self.secrets[DATA_SERVICE].signing
        parts = tuple(upload.parts[index] for index in forwarded)
        return self.key_transform.deposit(seal(deposit, signing, parts))

    def contribute(self, *names: str) -> dict[str, Values]:
        """Let honest participants upload one random update each; return them."""
        drawn = {name: self.draw() for name in names}
        for name, values in drawn.items():
            self.deliver(self.seal(name, values))
        return drawn

    def release(self) -> Release:
        """Release what an honest DSP proposes.

        Raises:
            ReleaseError: too few identities have contributed.
        """
        order = self.data_service.propose()
        if order is None:
            raise ReleaseError("fewer than t identities have an accepted upload")
        return self.approve(order)

    def approve(self, order: Envelope[ReleaseOrder]) -> Release:
        """Have the KTS sign an order and the DSP record it.

        Raises:
            ReleaseError: the list breaks a rule.
        """
        sent = self._cross("dsp->kts", order, ReleaseOrder)
        signed = self.key_transform.approve(sent)
        release = self._cross("kts->dsp", signed, Release)
        self.data_service.record(release)
        return release.header

    def fetch(
        self, name: str, first: int | None = None, last: int | None = None
    ) -> Envelope[Download]:
        """Return an honest download; by default the newest release alone."""
        newest = self.data_service.version
        first, last = first or newest, last or newest
        begun = self.data_service.begin(name, first, last)
        request = self._cross("dsp->kts", begun, TransformRequest)
        reply = self.key_transform.transform(request)
        heard = self._cross("kts->dsp", reply, TransformReply)
        download = self.data_service.finish(heard)
        return self._cross(f"dsp->{name}", download, Download)

    def opened_by(self, name: str, refusals: Refusals) -> Sums | None:
        """Return the newest release as an honest participant opens it.

        It asks twice, since a failed key transform consumes nothing. None if it never
        opens.
        """
        for _ in range(2):
            with refusals:
                data = self.fetch(name).encode()
                return self.participants[name].open(data).values
        return None

    def give_up(self, *names: str) -> None:
        """Have participants state that what they tried does not open, and give it up.

        Raises:
            TransformError: they are too few.
        """
        standing = [
            self.key_transform.declare(self.participants[name].declare())
            for name in names
        ]
        for name in names:
            self.participants[name].reject(standing[-1].header)

    def session(self, name: str, aggregator: Aggregator, initial: Sums) -> Session:
        """Return a session of an honest participant over a connection."""
        secret = self.secrets[name]
        participant = self._participant(name)
        return Session(self.task, secret, aggregator, initial, participant=participant)

    def arithmetic(self) -> DataServiceCipher[Any]:
        """Return what a DSP computes with, for one that keeps its own books."""
        secret = self.secrets[DATA_SERVICE]
        return self._variant.data_service_cipher(self.task, secret)

    def heard(self, link: str, kind: type[H]) -> list[Envelope[H]]:
        """Return the messages of one kind that a wire-tapper has heard on a link."""
        return [
            message
            for heard_on, message in self.wire
            if heard_on == link and isinstance(message.header, kind)
        ]

    def _data_service(self) -> DataServiceProvider:
        secret = self.secrets[DATA_SERVICE]
        if self._variant.genuine:
            return DataServiceProvider(self.task, secret, Workers())
        return DataServiceWeakened(self._variant, self.task, secret)

    def _key_transform(self) -> KeyTransformServer:
        secret = self.secrets[KEY_TRANSFORM]
        if self._variant.genuine:
            return KeyTransformServer(self.task, secret, Workers())
        return KeyTransformWeakened(self._variant, self.task, secret)

    def _participant(self, name: str) -> LearningParticipant:
        secret = self.secrets[name]
        if self._variant.genuine:
            return LearningParticipant(self.task, secret, Workers())
        return ParticipantWeakened(self._variant, self.task, secret)

    def _cross(self, link: str, envelope: Envelope[H], kind: type[H]) -> Envelope[H]:
        data, cfg = envelope.encode(), self.task.cfg
        if self._variant.hashes:
            received = decode(data, kind, cfg=cfg, max_bytes=_MAX_BYTES)
        else:
            received = decode_without_hashes_weakened(data, kind, cfg=cfg)
        self.wire.append((link, received))
        return received


def seeded(seed: int) -> np.random.Generator:
    """Return a stream of what is not secret in a demonstration, the same every time."""
    return np.random.default_rng(seed)


def transform_request(
    task: Task, dsp: Secret, recipient: str, body: Parts
) -> Envelope[TransformRequest]:
    """Return what whoever holds the DSP's keys may ask of the KTS for release 1."""
    request = TransformRequest(
        cfg=task.cfg, sender=dsp.name, recipient=recipient, first=1, last=1
    )
    return seal(request, dsp.signing, body)


def make_task(
    suite: str,
    roster: Roster,
    parameters: Parameters,
    operator: SigningKey,
    contributions: int,
    initial: npt.NDArray[np.int64],
) -> Task:
    """Return a signed task of sums over a flat vector like `initial`.

    Raises:
        TaskError: the numbers do not fit together.
    """
    options = TaskOptions(
        suite=suite,
        profile=parameters.name,
        min_contributions=contributions,
        combine="sum",
    )
    config = options.config(
        roster,
        parameters,
        n_params=initial.size,
        layout_digest=b"",
        initial_digest=state_digest(initial),
    )
    return Task(config, roster, parameters, sign_task(config, operator))
