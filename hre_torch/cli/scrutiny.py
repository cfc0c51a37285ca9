"""`hre-torch attack` and `audit`: seeing for oneself what holds and what does not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final

import typer

import hre_torch
from hre_torch.cli.screen import results, tell
from hre_torch.errors import ConfigurationError, MissingExtraError

__all__ = ["attack", "audit", "operator_key"]

_ATTACKS: Final = "benchmarks.attacks.command"
_EXIT_UNFINISHED: Final = 3
_KEY_OCTETS: Final = 32


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
    expected = _attacks()(
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


def _attacks() -> Callable[..., bool]:
    """Find the attacks, which are in the repository and not in the wheel.

    Raises:
        MissingExtraError: they are not beside the package, nor in this folder.
    """
    for folder in (Path(hre_torch.__file__).parents[1], Path.cwd()):
        if (folder / "benchmarks" / "attacks").is_dir():
            sys.path.insert(0, str(folder))
            play: Callable[..., bool] = import_module(_ATTACKS).attack
            return play
    raise MissingExtraError(
        "The attacks are in the repository (folder benchmarks/attacks) and in the "
        "source distribution, not in the wheel: run `hre-torch attack` in a checkout."
    )


def audit(
    run_dir: Annotated[Path, typer.Argument(help="Directory of a run.")],
    operator: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="The operator's signing key, as `train` has shown it."
        ),
    ] = None,
) -> None:
    """Re-check a run from what was signed, without any secret.

    Exits with 1 if something is wrong, and with 3 if the run has not ended.
    """
    from hre_torch.app.audit import audit as check

    report = check(run_dir, None if operator is None else operator_key(operator))
    for finding in report.findings:
        tell(finding, title="wrong", style="red")
    for note in report.notes:
        tell(note, title="note", style="yellow")
    if report.findings:
        raise typer.Exit(1)
    seen = (
        f"suite {report.suite}: {report.uploads} uploads in {report.releases} "
        "releases; signatures, proofs, lists, hash chain, counts and model hashes"
    )
    if not report.finished:
        so_far = f"the transcript so far verifies: {seen}"
        tell(so_far, title="unfinished", style="yellow")
        raise typer.Exit(_EXIT_UNFINISHED)
    signed = f"{seen}; every file as the operator signed it"
    tell(signed, title="verified", style="green")
    if operator is None:
        tell(
            f"operator {report.operator.hex()}, as the run itself says: nothing was "
            "changed since this key signed it, but somebody who made the whole "
            "directory anew would have signed with another key; compare it with the "
            "one that `hre-torch train` has shown, or name that with --operator",
            title="note",
            style="yellow",
        )


def operator_key(text: str) -> bytes:
    """Return an Ed25519 key from its hexadecimal form.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != _KEY_OCTETS:
        raise ConfigurationError(
            f"--operator takes the {2 * _KEY_OCTETS} hexadecimal digits of a signing "
            f"key, as `hre-torch train` shows them at its end and `keygen operator` "
            f"when it makes them, not {text!r}"
        )
    return key
