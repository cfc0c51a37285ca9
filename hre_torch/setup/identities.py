"""Keys of one role: made, kept in an encrypted file, shown on a public card."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from hre_torch.crypto.dcr.modulus import Parameters, load_profile
from hre_torch.crypto.keys.key_files import read_key_file, write_key_file
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import KeyFileError, TaskError, UnsupportedError
from hre_torch.protocol.roster import (
    DATA_SERVICE,
    KEY_TRANSFORM,
    KeyCard,
    Role,
    Secret,
    require_name,
)
from hre_torch.protocol.suites import SUITES

__all__ = [
    "OPERATOR",
    "CardFile",
    "make_operator",
    "make_role",
    "open_operator",
    "open_role",
    "read_card",
]

OPERATOR: Final = "operator"
_FORMAT: Final = "hre_torch key card 2"
_MOST_CARD_BYTES: Final = 1 << 18
"""Sixteen lanes at 4096 bits take 45 KB in JSON."""


class CardFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A public card as a file: what is sent to whoever keeps the roster.

    Attributes:
        profile: modulus profile of the keys; empty on an operator's card.
        parameters_digest: digest of that profile.
        card: the card of a server or a participant.
        operator: on an operator's card its Ed25519 key, else empty.
    """

    format: Literal["hre_torch key card 2"] = _FORMAT
    profile: str = ""
    parameters_digest: bytes = b""
    card: KeyCard | None = None
    operator: bytes = b""

    @property
    def suite(self) -> str:
        """The suite that the keys are for; empty on an operator's card."""
        return "" if self.card is None else self.card.suite


class _Material(msgspec.Struct, frozen=True, array_like=True):
    """What the secret in a key file consists of."""

    suite: str
    signing: bytes
    material: bytes


def make_role(
    role: Role,
    name: str,
    *,
    suite: str,
    profile: str,
    key: Path,
    card: Path,
    passphrase: bytes,
) -> CardFile:
    """Make the keys of a server or a participant; the secret ones stay in `key`.

    Args:
        role: `"dsp"`, `"kts"` or `"participant"`.
        name: identity of a participant; a server's name is its role.
        suite: the suite.
        profile: name or path of the modulus profile.
        key: key file to write.
        card: card file to write, for everybody to read.
        passphrase: what opens the key file again.

    Raises:
        TaskError: the name is that of a server, or cannot be one.
        UnsupportedError: the suite has one key for all participants.
        KeyFileError: a file exists or cannot be written.
    """
    require_name(name)
    if (role == "participant") is (name in (DATA_SERVICE, KEY_TRANSFORM)):
        raise TaskError(
            f"a {role} cannot be called {name!r}: {DATA_SERVICE!r} and "
            f"{KEY_TRANSFORM!r} are the names of the servers"
        )
    if suite == "phong":
        raise UnsupportedError(
            "in suite 'phong' all participants share one private key, which would have "
            "to travel; it is a baseline for `hre-torch train`, not for servers"
        )
    parameters = load_profile(profile)
    secret, made = SUITES.get(suite).keygen(role, name, parameters)
    file = CardFile(
        profile=profile,
        parameters_digest=parameters.digest,
        card=made,
    )
    kept = _Material(suite, secret.signing.secret_bytes(), secret.material)
    _write(role, name, parameters.digest, kept, key, file, card, passphrase)
    return file


def make_operator(*, key: Path, card: Path, passphrase: bytes) -> CardFile:
    """Make the key that signs rosters and tasks.

    Raises:
        KeyFileError: a file exists or cannot be written.
    """
    signing = SigningKey.generate()
    file = CardFile(operator=signing.public)
    kept = _Material("", signing.secret_bytes(), b"")
    _write(OPERATOR, OPERATOR, b"", kept, key, file, card, passphrase)
    return file


def open_role(
    key: Path, passphrase: bytes, *, suite: str, parameters: Parameters
) -> Secret:
    """Return the secret of a server or a participant, for the suite it was made for.

    Args:
        key: the key file.
        passphrase: what opens it.
        suite: what it is to be used for: the suite of the roster.
        parameters: the group of the roster.

    Raises:
        KeyFileError: the file does not open, is an operator's, or was made for another
            suite or group.
    """
    opened, kept = _open(key, passphrase)
    if opened.role == OPERATOR:
        raise KeyFileError(
            f"{key} is an operator's key; name the key of a server or a participant"
        )
    if kept.suite != suite:
        raise KeyFileError(
            f"{key} was made for suite {kept.suite!r}, the roster is for {suite!r}; a "
            "key serves one suite only, or what one suite protects could be opened "
            "under the other: ask the operator why the suite has changed, and make "
            f"another key for it with `hre-torch keygen --suite {suite}`"
        )
    if opened.parameters_digest != parameters.digest:
        raise KeyFileError(
            f"{key} was made for another modulus profile than {parameters.name!r}, "
            "which the roster names; use the key whose card the roster holds"
        )
    signing = SigningKey(kept.signing)
    return Secret(opened.role, opened.name, kept.suite, signing, kept.material)


def open_operator(key: Path, passphrase: bytes) -> SigningKey:
    """Return the key that signs rosters and tasks.

    Raises:
        KeyFileError: the file does not open, or is not an operator's.
    """
    opened, kept = _open(key, passphrase)
    if opened.role != OPERATOR:
        raise KeyFileError(
            f"{key} is the key of {opened.role} {opened.name!r}; an operator signs "
            "with its own key, which is no server's"
        )
    return SigningKey(kept.signing)


def read_card(path: Path) -> CardFile:
    """Return what a card file says.

    Raises:
        TaskError: it is none.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_CARD_BYTES)
        return msgspec.json.decode(data, type=CardFile)
    except OSError as error:
        raise TaskError(f"cannot read the card {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TaskError(
            f"{path} is no key card of this version of hre_torch ({error}); ask for "
            "the file that `hre-torch keygen` wrote with --card"
        ) from error


def _write(
    role: str,
    name: str,
    digest: bytes,
    kept: _Material,
    key: Path,
    file: CardFile,
    card: Path,
    passphrase: bytes,
) -> None:
    if card.exists():
        raise KeyFileError(f"{card} exists already; cards are never overwritten")
    write_key_file(
        key,
        role=role,
        name=name,
        parameters_digest=digest,
        secret=msgspec.msgpack.encode(kept),
        passphrase=passphrase,
    )
    try:
        with card.open("xb") as opened:
            opened.write(msgspec.json.format(msgspec.json.encode(file)) + b"\n")
    except OSError as error:
        raise KeyFileError(
            f"cannot write the card {card}: {error.strerror}; {key} was written, "
            "remove it and make both again"
        ) from error


def _open(key: Path, passphrase: bytes) -> tuple[Any, _Material]:
    opened = read_key_file(key, passphrase=passphrase)
    try:
        kept = msgspec.msgpack.decode(opened.secret, type=_Material)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise KeyFileError(
            f"{key} holds no key of this version of hre_torch; make a new one"
        ) from None
    return opened, kept
