"""`hre-torch keygen`: make what must be made once, offline.

Keys of dsp, kts, participants and the operator are made where they stay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hre_torch.cli.passphrases import PassphraseFile, ask_new_passphrase
from hre_torch.cli.screen import messages, tell
from hre_torch.crypto.keys.ceremony import (
    expected_candidates,
    hold_ceremony,
    write_profile,
)
from hre_torch.errors import ModulusError
from hre_torch.protocol.roster import DATA_SERVICE, KEY_TRANSFORM, Role
from hre_torch.setup.identities import CardFile, make_operator, make_role

__all__ = ["add_role_commands", "app"]

app = typer.Typer(no_args_is_help=True, help="Make parameters and keys.")


@app.callback()
def keygen() -> None:
    """Make parameters and keys."""


@app.command("params")
def params(
    name: Annotated[str, typer.Option(help="Name of the profile.")],
    out: Annotated[Path, typer.Option(help="Profile file to write; must not exist.")],
    bits: Annotated[int, typer.Option(help="Length of the modulus.")] = 3072,
    lanes: Annotated[int, typer.Option(help="Lanes of a block.")] = 16,
    exponent_bits: Annotated[
        int, typer.Option(help="Length of secret exponents; twice the security.")
    ] = 256,
) -> None:
    """Hold the offline ceremony: a modulus of two safe primes that are forgotten.

    Run it on a machine that neither server's operator controls and that is wiped
    afterwards. 3072 bits take minutes to an hour; luck decides.
    """
    if out.exists():
        # Said here too, because the search may take an hour.
        raise ModulusError(
            f"{out} exists already; profiles are never overwritten, name another file"
        )
    columns = (
        TextColumn("searching for safe primes"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of about {task.total:,.0f} candidates"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=messages) as progress:
        task = progress.add_task("", total=expected_candidates(bits))
        made = hold_ceremony(
            bits,
            name,
            lanes=lanes,
            exponent_bits=exponent_bits,
            # The search has no memory: beyond the expectation the bar is full, and
            # as much may still be to come.
            progress=lambda tried, expected: progress.update(
                task, completed=tried, total=max(tried, expected)
            ),
        )
    write_profile(out, made)
    tell(
        f"{out}: {made.modulus_bits} bits, {made.security_bits}-bit security, "
        f"SHA-256 {made.digest.hex()}"
    )


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
