"""The roster as a file: cards are added, an operator signs, everybody verifies.

The file grows in the hands of whoever keeps it. When the operator signs, the numbers of
the task join it, and nothing may change any more: another card drops the signature.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, Literal

import msgspec

from hre_torch.crypto.dcr.modulus import Parameters, load_profile
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.durable_files import replace_file
from hre_torch.errors import TaskError
from hre_torch.protocol.roster import (
    DATA_SERVICE,
    KEY_TRANSFORM,
    KeyCard,
    Roster,
    Secret,
)
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task, TaskConfig, sign_task
from hre_torch.setup.identities import CardFile

__all__ = [
    "RosterFile",
    "add_card",
    "add_joint_key",
    "fingerprint",
    "profile_of",
    "read_roster",
    "roster_of",
    "sign_roster",
    "task_of",
    "write_roster",
]

_FORMAT: Final = "hre_torch roster 2"
_MOST_BYTES: Final = 1 << 26
"""A thousand participants with sixteen lanes at 4096 bits take 45 MB."""


class RosterFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A roster in the making, or a signed one.

    Attributes:
        profile: modulus profile of all keys; a path is relative to the roster's folder.
        parameters_digest: digest of that profile.
        operator: Ed25519 key of whoever signs.
        data_service: card of the DSP.
        key_transform: card of the KTS.
        participants: cards of the participants.
        joint_keys: by server the joint key that it computed, in suites where it takes
            a server's secret.
        task: the numbers of the task, once signed.
        signature: the operator's.
    """

    format: Literal["hre_torch roster 2"] = _FORMAT
    profile: str = ""
    parameters_digest: bytes = b""
    operator: bytes = b""
    data_service: KeyCard | None = None
    key_transform: KeyCard | None = None
    participants: tuple[KeyCard, ...] = ()
    joint_keys: dict[str, tuple[bytes, ...]] = {}
    task: TaskConfig | None = None
    signature: bytes = b""

    def cards(self) -> list[KeyCard]:
        """Return the cards that it has so far: servers first."""
        known = (self.data_service, self.key_transform, *self.participants)
        return [card for card in known if card is not None]

    @property
    def suite(self) -> str:
        """The suite that all cards are for; empty as long as there is none."""
        cards = self.cards()
        return cards[0].suite if cards else ""


def read_roster(path: Path) -> RosterFile:
    """Return what a roster file says; nothing in it is verified yet.

    Raises:
        TaskError: it is none.
    """
    try:
        with path.open("rb") as file:
            return parse_roster(file.read(_MOST_BYTES), str(path))
    except OSError as error:
        raise TaskError(f"cannot read the roster {path}: {error.strerror}") from error


def parse_roster(data: bytes, source: str) -> RosterFile:
    """Return what the bytes of a roster file say.

    Raises:
        TaskError: they are none.
    """
    try:
        return msgspec.json.decode(data, type=RosterFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TaskError(
            f"{source} is no roster of this version of hre_torch ({error}); make one "
            "with `hre-torch roster add`"
        ) from error


def write_roster(path: Path, file: RosterFile) -> None:
    """Write a roster, completely or not at all.

    Raises:
        TaskError: it cannot be written.
    """
    try:
        replace_file(path, msgspec.json.format(msgspec.json.encode(file)) + b"\n")
    except OSError as error:
        raise TaskError(f"cannot write the roster {path}: {error.strerror}") from error


def add_card(file: RosterFile, added: CardFile) -> RosterFile:
    """Return the roster with one more card; a signature is void and dropped.

    Raises:
        TaskError: there is such a card already, or it is of another suite or profile.
    """
    file = msgspec.structs.replace(file, task=None, signature=b"")
    if added.card is None:
        if file.operator not in (b"", added.operator):
            raise TaskError("the roster has another operator already; start a new one")
        return msgspec.structs.replace(file, operator=added.operator)
    if not file.suite:
        file = msgspec.structs.replace(
            file, profile=added.profile, parameters_digest=added.parameters_digest
        )
    same = (added.suite, added.parameters_digest)
    if same != (file.suite or added.suite, file.parameters_digest):
        raise TaskError(
            f"the card of {added.card.name!r} is for suite {added.suite!r} and profile "
            f"{added.profile!r}, this roster for {file.suite!r} and {file.profile!r}; "
            "make its keys again"
        )
    return _with_card(file, added.card)


def _with_card(file: RosterFile, card: KeyCard) -> RosterFile:
    if card.name in [each.name for each in file.cards()]:
        raise TaskError(
            f"the roster has a card of {card.name!r} already; to exchange it, start a "
            "new roster"
        )
    if card.role == DATA_SERVICE:
        return msgspec.structs.replace(file, data_service=card)
    if card.role == KEY_TRANSFORM:
        return msgspec.structs.replace(file, key_transform=card)
    return msgspec.structs.replace(file, participants=(*file.participants, card))


def add_joint_key(
    file: RosterFile, secret: Secret, parameters: Parameters
) -> RosterFile:
    """Return the roster with the joint key as one server computes it.

    Raises:
        TaskError: a server's card is missing, or the secret is no server's.
    """
    dsp, kts = _servers(file)
    cards = {DATA_SERVICE: (dsp, kts), KEY_TRANSFORM: (kts, dsp)}
    if secret.name not in cards:
        raise TaskError(f"{secret.name!r} is no server; the servers compute joint keys")
    own, other = cards[secret.name]
    if own.signing_key != secret.signing.public:
        raise TaskError(f"the roster's card of {secret.name!r} is not of this key file")
    joint = SUITES.get(file.suite).joint_key(secret, own, other, parameters)
    return msgspec.structs.replace(
        file,
        joint_keys=file.joint_keys | {secret.name: joint},
        task=None,
        signature=b"",
    )


def roster_of(file: RosterFile, parameters: Parameters) -> Roster:
    """Return the roster that a complete file describes.

    Raises:
        TaskError: something is missing, or the servers disagree about the joint key.
    """
    dsp, kts = _servers(file)
    if not file.operator:
        raise TaskError(
            "nobody is named to sign this roster; add the card of an operator"
        )
    joint = SUITES.get(file.suite).agreed_key(dsp, kts, parameters)
    if joint is None:
        joint = _published_key(file)
    return Roster(file.operator, dsp, kts, file.participants, joint)


def sign_roster(
    file: RosterFile, task: TaskConfig, operator: SigningKey, parameters: Parameters
) -> RosterFile:
    """Return the roster with a task, both signed by its operator.

    Raises:
        TaskError: the key is not the operator's, or the task breaks a rule.
    """
    if operator.public != file.operator:
        raise TaskError("this is not the key of the operator whom the roster names")
    signed = msgspec.structs.replace(
        file, task=task, signature=sign_task(task, operator)
    )
    task_of(signed, parameters)
    return signed


def task_of(file: RosterFile, parameters: Parameters) -> Task:
    """Return the task of a signed roster; every proof and signature in it is verified.

    Raises:
        TaskError, SignatureError: something does not verify, or it is not signed.
    """
    if file.task is None:
        raise TaskError("the roster is not signed; ask its operator to sign it")
    task = Task(file.task, roster_of(file, parameters), parameters, file.signature)
    SUITES.get(file.suite).check(task)
    return task


def profile_of(file: RosterFile, folder: Path) -> Parameters:
    """Return the roster's group parameters.

    Args:
        file: the roster.
        folder: that a relative path of a profile file starts from.

    Raises:
        TaskError: they are not those that the cards were made for.
        ModulusError: there is no such profile.
    """
    named: str | Path = file.profile
    if "/" in file.profile or file.profile.endswith(".json"):
        named = folder / file.profile
    parameters = load_profile(named)
    if parameters.digest != file.parameters_digest:
        raise TaskError(
            f"the profile {file.profile!r} here is not the one that the cards were "
            "made for; fetch the same file"
        )
    return parameters


def fingerprint(file: RosterFile) -> str:
    """Return a short hash of everything that is signed, to compare by telephone."""
    digest = hashlib.sha256(msgspec.json.encode(file, order="deterministic"))
    text = digest.hexdigest()[:32]
    return " ".join(text[i : i + 4] for i in range(0, len(text), 4))


def _servers(file: RosterFile) -> tuple[KeyCard, KeyCard]:
    if file.data_service is None or file.key_transform is None:
        raise TaskError("the roster lacks the card of a server; add both")
    return file.data_service, file.key_transform


def _published_key(file: RosterFile) -> tuple[bytes, ...]:
    published = [file.joint_keys.get(name) for name in (DATA_SERVICE, KEY_TRANSFORM)]
    if published[0] is None or published[1] is None:
        raise TaskError(
            f"in suite {file.suite!r} both servers compute the joint key; each has to "
            "run `hre-torch roster joint` with its key"
        )
    if published[0] != published[1]:
        raise TaskError(
            "the two servers publish different joint keys: one of the key cards was "
            "exchanged or damaged; make and compare them again"
        )
    return published[0]
