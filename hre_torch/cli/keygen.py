"""`hre-torch keygen`: make what must be made once, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hre_torch.cli.screen import messages, tell
from hre_torch.crypto.ceremony import (
    expected_candidates,
    hold_ceremony,
    write_profile,
)
from hre_torch.errors import ModulusError

__all__ = ["app"]

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
