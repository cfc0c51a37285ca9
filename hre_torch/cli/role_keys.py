"""`hre-torch keygen dsp|kts|participant|operator`: keys, made where they stay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hre_torch.cli.passphrases import PassphraseFile, ask_new_passphrase
from hre_torch.cli.screen import tell
from hre_torch.deployment.identities import CardFile, make_operator, make_role
from hre_torch.protocol.roster import DATA_SERVICE, KEY_TRANSFORM, Role

__all__ = ["add_role_commands"]

Key = Annotated[Path, typer.Option(help="Encrypted key file to write; keep it here.")]
Card = Annotated[Path, typer.Option(help="Public card to write; send it on.")]
Suite = Annotated[str, typer.Option(help="hybrid, gated, paper or plain.")]
Profile = Annotated[str, typer.Option(help="Modulus profile, or a profile file.")]


def dsp(
    key: Key = Path("dsp.key"),
    card: Card = Path("dsp.card"),
    suite: Suite = "hybrid",
    profile: Profile = "rsa2048",
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make the keys of a data service provider."""
    _make(DATA_SERVICE, DATA_SERVICE, suite, profile, key, card, passphrase_file)


def kts(
    key: Key = Path("kts.key"),
    card: Card = Path("kts.card"),
    suite: Suite = "hybrid",
    profile: Profile = "rsa2048",
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make the keys of a key transform server."""
    _make(KEY_TRANSFORM, KEY_TRANSFORM, suite, profile, key, card, passphrase_file)


def participant(
    name: Annotated[str, typer.Argument(help="Name in the roster.")],
    key: Annotated[Path | None, typer.Option(help="Key file; NAME.key.")] = None,
    card: Annotated[Path | None, typer.Option(help="Card; NAME.card.")] = None,
    suite: Suite = "hybrid",
    profile: Profile = "rsa2048",
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make the keys of a learning participant."""
    key, card = key or Path(f"{name}.key"), card or Path(f"{name}.card")
    _make("participant", name, suite, profile, key, card, passphrase_file)


def operator(
    key: Key = Path("operator.key"),
    card: Card = Path("operator.card"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make the key that signs rosters; it must be neither server's."""
    passphrase = ask_new_passphrase(key, passphrase_file)
    made = make_operator(key=key, card=card, passphrase=passphrase)
    _tell(made, key, card)


def add_role_commands(app: typer.Typer) -> None:
    """Add the four commands to `hre-torch keygen`."""
    for command in (dsp, kts, participant, operator):
        app.command()(command)


def _make(
    role: Role,
    name: str,
    suite: str,
    profile: str,
    key: Path,
    card: Path,
    passphrase_file: Path | None,
) -> None:
    passphrase = ask_new_passphrase(key, passphrase_file)
    made = make_role(
        role,
        name,
        suite=suite,
        profile=profile,
        key=key,
        card=card,
        passphrase=passphrase,
    )
    _tell(made, key, card)


def _tell(made: CardFile, key: Path, card: Path) -> None:
    public = made.operator if made.card is None else made.card.signing_key
    tell(f"{key}: secret, stays here")
    tell(f"{card}: public, signing key {public.hex()}")
