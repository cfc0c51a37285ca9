"""Who takes part in a task: secrets, the public key cards, and the roster of them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import Final, Literal

import msgspec

from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import TaskError
from hre_torch.protocol.wire import MAX_NAME
from hre_torch.registry import nearest

__all__ = [
    "DATA_SERVICE",
    "KEY_TRANSFORM",
    "KeyCard",
    "Role",
    "Roster",
    "Secret",
    "require_name",
]

Role = Literal["dsp", "kts", "participant"]
_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{MAX_NAME - 1}}}")

DATA_SERVICE: Final = "dsp"
KEY_TRANSFORM: Final = "kts"


def require_name(name: str) -> None:
    """Raise unless an identity has a name that is safe in files, logs and terminals.

    Raises:
        TaskError: it has other characters, or too many.
    """
    if _NAME.fullmatch(name) is None:
        shown = name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..."
        raise TaskError(
            f"{shown!r} cannot be a name: a name has 1 to {MAX_NAME} characters, only "
            "a-z, 0-9, '.', '_' and '-', and begins with a letter or a digit; choose "
            "another one, such as 'clinic-7'"
        )


class Secret:
    """What one role must keep to itself; its repr shows nothing of it.

    Args:
        role: `"dsp"`, `"kts"` or `"participant"`.
        name: identity in the roster; a server's name is its role.
        suite: the only suite that the keys serve.
        signing: the key that signs this role's messages.
        material: key material in the suite's own encoding; empty where it has none.
    """

    __slots__ = ("material", "name", "role", "signing", "suite")

    def __init__(
        self, role: Role, name: str, suite: str, signing: SigningKey, material: bytes
    ) -> None:
        self.role: Role = role
        self.name = name
        self.suite = suite
        self.signing = signing
        self.material = material

    def __repr__(self) -> str:
        return f"Secret(role={self.role!r}, name={self.name!r}, suite={self.suite!r})"


class KeyCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The public half of a `Secret`.

    Attributes:
        role: `"dsp"`, `"kts"` or `"participant"`.
        name: identity, unique in a roster.
        suite: the only suite that the keys serve. Under another one they would open
            what this one has sealed: the KTS of `paper` raises whatever the DSP sends
            it to the exponents that protect `gated` and `hybrid`.
        signing_key: Ed25519 public key, 32 octets.
        public: the suite's public keys, one encoded group element per lane.
        proof: proof of knowledge of the exponents, where the suite asks for one.

    Raises:
        TaskError: the name breaks the rule of `require_name`.
    """

    role: Role
    name: str
    suite: str
    signing_key: bytes
    public: tuple[bytes, ...] = ()
    proof: bytes = b""

    def __post_init__(self) -> None:
        require_name(self.name)


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
        suites = Counter(card.suite for card in self.cards())
        if len(suites) > 1:
            usual = self.data_service.suite
            others = [card for card in self.cards() if card.suite != usual]
            shown = ", ".join(f"{card.name!r} {card.suite!r}" for card in others)
            raise TaskError(
                "a roster has cards of one suite; here the DSP's is for "
                f"{usual!r}, but {shown}: have everybody make keys for one suite with "
                "`hre-torch keygen`, and start a new roster"
            )
        names = Counter(card.name for card in self.cards())
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
    def suite(self) -> str:
        """The suite that all cards are for."""
        return self.data_service.suite

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

    def require_keys(self, secret: Secret) -> None:
        """Raise unless these are the keys behind a card of this roster.

        Raises:
            TaskError: they serve another suite, or the card is of other keys.
        """
        card = self.card(secret.name)
        if secret.suite != card.suite:
            raise TaskError(
                f"the keys of {secret.name!r} are for suite {secret.suite!r}, the "
                f"roster for {card.suite!r}; keys serve one suite only, or what one "
                "protects could be opened under the other: make new keys, or ask the "
                "operator for the right roster"
            )
        if (secret.role, secret.signing.public) != (card.role, card.signing_key):
            raise TaskError(
                f"the roster's card of {secret.name!r} is not of these keys; use the "
                "key file that was made with that card"
            )

    def digest(self) -> bytes:
        """Return SHA-256 of the roster's canonical encoding."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).digest()
