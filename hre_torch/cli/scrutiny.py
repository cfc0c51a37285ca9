"""`hre-torch attack` and `audit`: seeing for oneself what holds and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hre_torch.cli.screen import results

__all__ = ["attack", "audit"]


def attack(
    name: Annotated[str, typer.Argument(help="A1 to A17, or all.")],
    suite: Annotated[
        str | None, typer.Option(help="Only on this suite or weakened variant.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the list of results here.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Draw the pictures of A9 into this PNG file.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the updates.")] = 0,
    profile: Annotated[str, typer.Option(help="Modulus profile.")] = "toy-insecure",
) -> None:
    """Play attacks on the suites; fail if one does not end as it should."""
    from hre_torch.attacks.command import attack as play

    expected = play(
        name,
        console=results,
        suite=suite,
        json_file=json_file,
        pictures=pictures,
        seed=seed,
        profile=profile,
    )
    if not expected:
        raise typer.Exit(1)


def audit(
    run_dir: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
) -> None:
    """Re-check a finished run from its transcript, without any secret."""
    from hre_torch.audit import audit as check

    report = check(run_dir)
    for finding in report.findings:
        results.print(f"[red]wrong[/red]  {finding}", soft_wrap=True, highlight=False)
    if report.findings:
        raise typer.Exit(1)
    results.print(
        f"[green]verified[/green]  suite {report.suite}: {report.uploads} uploads in "
        f"{report.releases} releases; signatures, proofs, lists, hash chain, counts "
        "and model hashes",
        soft_wrap=True,
        highlight=False,
    )
