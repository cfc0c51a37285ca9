"""What everybody agrees on before the first update: key cards, roster, task."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from functools import cached_property
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from hre_torch.crypto.modulus import Parameters
from hre_torch.crypto.signatures import SigningKey, verify
from hre_torch.encoding.fixed_point import FixedPoint
from hre_torch.errors import TaskError
from hre_torch.protocol.envelope import MAX_HEADER_BYTES, MAX_NAME
from hre_torch.registry import nearest

__all__ = [
    "DATA_SERVICE",
    "KEY_TRANSFORM",
    "KeyCard",
    "Role",
    "Roster",
    "Secret",
    "Task",
    "TaskConfig",
    "chained_digest",
    "sign_task",
    "state_digest",
]

Role = Literal["dsp", "kts", "participant"]
DATA_SERVICE: Final = "dsp"
KEY_TRANSFORM: Final = "kts"
_LISTED_BYTES: Final = 64
"""What an upload takes in a list besides its owner's name, and some room."""
_FORMAT: Final = 1


class Secret:
    """What one role must keep to itself; its repr shows nothing of it.

    Args:
        role: `"dsp"`, `"kts"` or `"participant"`.
        name: identity in the roster; a server's name is its role.
        signing: the key that signs this role's messages.
        material: key material in the suite's own encoding; empty where it has none.
    """

    __slots__ = ("material", "name", "role", "signing")

    def __init__(
        self, role: Role, name: str, signing: SigningKey, material: bytes
    ) -> None:
        self.role: Role = role
        self.name = name
        self.signing = signing
        self.material = material

    def __repr__(self) -> str:
        return f"Secret(role={self.role!r}, name={self.name!r})"


class KeyCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The public half of a `Secret`.

    Attributes:
        role: `"dsp"`, `"kts"` or `"participant"`.
        name: identity, unique in a roster.
        signing_key: Ed25519 public key, 32 octets.
        public: the suite's public keys, one encoded group element per lane.
        proof: proof of knowledge of the exponents, where the suite asks for one.
    """

    role: Role
    name: str
    signing_key: bytes
    public: tuple[bytes, ...] = ()
    proof: bytes = b""


class Roster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everybody who takes part, with their keys and the joint key of the servers.

    Attributes:
        operator: Ed25519 key that signs the task; neither server's, since whoever
            signs the roster could invent participants.
        data_service: card of the DSP.
        key_transform: card of the KTS.
        participants: cards of the participants, in the order of the roster.
        joint_key: `PK_j`, one encoded group element per lane.
    """

    operator: bytes
    data_service: KeyCard
    key_transform: KeyCard
    participants: tuple[KeyCard, ...]
    joint_key: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        roles = [card.role for card in self.cards()]
        if roles[:2] != ["dsp", "kts"] or {*roles[2:]} - {"participant"}:
            raise TaskError(
                "a roster has the card of a DSP, that of a KTS, and those of "
                f"participants, but this one has {roles}; put every card in its place"
            )
        names = Counter(card.name for card in self.cards())
        if not all(1 <= len(name) <= MAX_NAME for name in names):
            raise TaskError(
                f"names in a roster have 1 to {MAX_NAME} characters; choose another "
                "one for whoever has none, or a longer one"
            )
        doubles = sorted(name for name, count in names.items() if count > 1)
        if doubles:
            raise TaskError(
                f"the roster names {', '.join(map(repr, doubles))} more than once; "
                f"give every participant its own name, other than {DATA_SERVICE!r} and "
                f"{KEY_TRANSFORM!r}"
            )

    def cards(self) -> tuple[KeyCard, ...]:
        """Return all cards: both servers, then the participants."""
        return (self.data_service, self.key_transform, *self.participants)

    @property
    def names(self) -> tuple[str, ...]:
        """The participants' names, in the order of the roster."""
        return tuple(card.name for card in self.participants)

    def card(self, name: str) -> KeyCard:
        """Return the card of a participant or a server.

        Raises:
            TaskError: the roster has no such name.
        """
        for card in self.cards():
            if card.name == name:
                return card
        raise TaskError(
            f"{name!r} is not in the roster: {nearest(name, list(self.names))}"
        )

    def participant(self, name: str) -> KeyCard:
        """Return the card of a participant; a server is none.

        Raises:
            TaskError: no participant has that name.
        """
        for card in self.participants:
            if card.name == name:
                return card
        raise TaskError(
            f"{name!r} is not a participant of this task: "
            f"{nearest(name, list(self.names))}"
        )

    def digest(self) -> bytes:
        """Return SHA-256 of the roster's canonical encoding."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).digest()


class TaskConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The frozen numbers of a task; their hash `cfg` is inside every message.

    Attributes:
        suite: name of the protocol behind the roles.
        profile: name of the modulus profile.
        parameters_digest: hash of the modulus, generator, lanes and exponent size.
        fraction_bits: `f`; values travel as integers at scale 2^f.
        value_bits: `b`, bits of one quantised value, sign included.
        max_additions: `K`, most uploads in one opened sum.
        clip: L2 bound that participants apply to an update, or None.
        min_contributions: `t`, least number of distinct identities in a release.
        assumed_colluders: `c`, participants assumed to collude with a server.
        staleness_bound: `S`, most releases an upload may lag behind.
        pending_limit: `Q`, most unreleased uploads of one identity.
        combine: `"sum"` (the paper's ASGD) or `"mean"` (updates divided by t).
        n_params: trainable values in the flat vector.
        n_buffers: buffer values after them; always combined as a mean.
        layout_digest: hash of shapes and dtypes of the flat vector.
        initial_digest: `state_digest` of the weights that the task starts from.
        roster_digest: hash of the roster.
    """

    suite: str
    profile: str
    parameters_digest: bytes
    fraction_bits: int = 16
    value_bits: int = 16
    max_additions: int = 256
    clip: float | None = None
    min_contributions: int
    assumed_colluders: int = 0
    staleness_bound: int = 50
    pending_limit: int
    combine: Literal["sum", "mean"]
    n_params: int
    n_buffers: int = 0
    layout_digest: bytes
    initial_digest: bytes
    roster_digest: bytes
    format: int = _FORMAT

    @property
    def n_values(self) -> int:
        """Length of the flat vector: parameters, then buffers."""
        return self.n_params + self.n_buffers

    def digest(self) -> bytes:
        """Return `cfg`, SHA-256 of the canonical encoding."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).digest()


class Task:
    """A checked task: configuration, roster and group parameters that fit together.

    Args:
        config: the frozen numbers.
        roster: who takes part.
        parameters: the modulus profile that `config.profile` names.
        signature: the operator's, from `sign_task`.

    Raises:
        TaskError: the three do not fit together, or a number is out of range.
        SignatureError: the signature is not the operator's.
    """

    def __init__(
        self,
        config: TaskConfig,
        roster: Roster,
        parameters: Parameters,
        signature: bytes,
    ) -> None:
        self.config = config
        self.roster = roster
        self.parameters = parameters
        self.signature = signature
        self._check()
        verify(roster.operator, signature, _signed(config), who="the operator")

    def __repr__(self) -> str:
        return (
            f"Task(suite={self.config.suite!r}, profile={self.config.profile!r}, "
            f"participants={len(self.roster.participants)}, "
            f"n_values={self.config.n_values}, cfg={self.cfg.hex()[:16]})"
        )

    @cached_property
    def cfg(self) -> bytes:
        """The 32 octets that bind every message to this task."""
        return self.config.digest()

    @cached_property
    def fixed_point(self) -> FixedPoint:
        """The quantiser of this task."""
        return FixedPoint(
            fraction_bits=self.config.fraction_bits, value_bits=self.config.value_bits
        )

    def full_size(
        self, values: npt.NDArray[np.signedinteger], first: int = 0
    ) -> npt.NDArray[np.int64]:
        """Return (a piece of) an own upload at the size at which its owner applies it.

        What travels is the update (`sum`) or the update divided by t (`mean`, and
        buffers always), so the owner's own pending contribution is q or t q.

        Args:
            values: integers, a contiguous piece of the vector passed to
                `Session.push`.
            first: where the piece begins.

        Returns:
            int64, of the same shape.
        """
        full = values.astype(np.int64)
        averaged = 0 if self.config.combine == "mean" else self.config.n_params
        full[max(0, averaged - first) :] *= self.config.min_contributions
        return full

    def _check(self) -> None:
        config, count = self.config, len(self.roster.participants)
        t, k = config.min_contributions, config.max_additions
        servers = {card.signing_key for card in self.roster.cards()[:2]}
        name_bytes = max((len(name.encode()) for name in self.roster.names), default=0)
        rules: list[tuple[bool, str]] = [
            (
                config.format == _FORMAT,
                f"this version reads task format {_FORMAT}, not {config.format}",
            ),
            (
                config.parameters_digest == self.parameters.digest,
                f"profile {config.profile!r} is not the one the task was made with; "
                "use the same profile file everywhere",
            ),
            (
                config.roster_digest == self.roster.digest(),
                "the roster is not the one the task was made with; fetch both again",
            ),
            (
                self.roster.operator not in servers,
                "the operator's key is that of a server, which could then invent "
                "participants; let somebody else sign the roster",
            ),
            (count >= 1, "a task needs at least one participant"),
            (
                1 <= t <= count,
                f"min_contributions (t) is {t}, but must be between 1 and the number "
                f"of participants, {count}: nothing could ever be released",
            ),
            (
                t <= k,
                f"min_contributions (t) is {t} and max_additions (K) is {k}: a release "
                "of t uploads must fit into K additions; raise max_additions",
            ),
            (
                config.pending_limit >= 1 and config.pending_limit * (t - 1) < k,
                f"pending_limit (Q) is {config.pending_limit}, t is {t} and K is {k}: "
                "Q must be at least 1, and uploads of t - 1 identities must not fill a "
                "release alone, or nothing could ever be released; take K // P",
            ),
            (
                count * config.pending_limit * (name_bytes + _LISTED_BYTES)
                < MAX_HEADER_BYTES,
                f"{count} participants with pending_limit (Q) = {config.pending_limit} "
                "could make a release list longer than a message may be; lower "
                "max_additions (K) or pending_limit (Q)",
            ),
            (
                config.staleness_bound >= 1,
                f"staleness_bound (S) is {config.staleness_bound}; it must be >= 1",
            ),
            (
                config.n_params >= 1 and config.n_buffers >= 0,
                f"a task of {config.n_params} parameters and {config.n_buffers} "
                "buffers has nothing to train",
            ),
            (
                config.clip is None or (math.isfinite(config.clip) and config.clip > 0),
                f"clip is {config.clip}; it must be a positive number or None",
            ),
        ]
        for holds, message in rules:
            if not holds:
                raise TaskError(message)


def sign_task(config: TaskConfig, operator: SigningKey) -> bytes:
    """Return the operator's signature of a task; `config` binds the roster's hash."""
    return operator.sign(_signed(config))


def _signed(config: TaskConfig) -> bytes:
    return b"hre_torch task" + config.digest()


def chained_digest(previous: bytes, digest: bytes) -> bytes:
    """Return SHA-256 of one model's digest after that of all models before it."""
    return hashlib.sha256(previous + digest).digest()


def state_digest(released: npt.NDArray[np.int64]) -> bytes:
    """Return SHA-256 of released weights, int64 little-endian, shape `(n_values,)`."""
    return hashlib.sha256(released.astype("<i8", copy=False).tobytes()).digest()
