"""`hre-torch roster`: who takes part, signed by an operator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from hre_torch.cli.passphrases import PassphraseFile, ask_passphrase
from hre_torch.cli.screen import say, tell
from hre_torch.cli.scrutiny import operator_key
from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.errors import SignatureError
from hre_torch.protocol.task import TaskConfig
from hre_torch.protocol.task_options import TaskOptions
from hre_torch.setup.identities import open_operator, open_role, read_card
from hre_torch.setup.roster_file import (
    RosterFile,
    add_card,
    add_joint_key,
    fingerprint,
    profile_of,
    read_roster,
    roster_of,
    sign_roster,
    task_of,
    write_roster,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["app"]

_EXIT_ALARM: Final = 4

app = typer.Typer(no_args_is_help=True, help="Who takes part, and what in.")

RosterPath = Annotated[Path, typer.Argument(help="Roster file.")]


@app.command("add")
def add(
    roster: RosterPath,
    cards: Annotated[list[Path], typer.Argument(help="Cards that keygen wrote.")],
) -> None:
    """Add cards to a roster, which is made if it does not exist."""
    file = read_roster(roster) if roster.exists() else RosterFile()
    for card in cards:
        file = add_card(file, read_card(card))
    write_roster(roster, file)
    _tell(file)


@app.command("joint")
def joint(
    roster: RosterPath,
    key: Annotated[Path, typer.Option(help="Key file of a server.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Add the joint key as one server computes it (suite paper only)."""
    file = read_roster(roster)
    parameters = profile_of(file, roster.parent)
    secret = open_role(
        key,
        ask_passphrase(key, passphrase_file),
        suite=file.suite,
        parameters=parameters,
    )
    file = add_joint_key(file, secret, parameters)
    write_roster(roster, file)
    _tell(file)


@app.command("sign")
def sign(
    roster: RosterPath,
    key: Annotated[Path, typer.Option(help="The operator's key file.")],
    initial: Annotated[Path, typer.Option(help="File of first weights to write.")],
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe of what will be trained.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="In the place of a recipe: a function that returns the model.",
        ),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("-o", help="key=value of the recipe, or of the task's numbers."),
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Released weights of an earlier task.")
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Turn a roster and a recipe, or a model of your own, into a signed task."""
    # Here, because servers read rosters too and have no torch.
    from hre_torch.participant.connection import read_weights, write_weights

    file = read_roster(roster)
    parameters = profile_of(file, roster.parent)
    first = None if start is None else read_weights(start)
    changes = override or []
    if recipe is not None and model is None:
        task, weights = _of_recipe(file, parameters, recipe, changes, first)
    elif model is not None and recipe is None:
        task, weights = _of_model(file, parameters, model, changes, first)
    else:
        raise typer.BadParameter(
            "name what will be trained: either --recipe FILE or --model MODULE:FUNCTION"
        )
    operator = open_operator(key, ask_passphrase(key, passphrase_file))
    file = sign_roster(file, task, operator, parameters)
    write_weights(initial, weights)
    write_roster(roster, file)
    _tell(file)


def _of_recipe(
    file: RosterFile,
    parameters: Parameters,
    recipe: Path,
    changes: list[str],
    start: npt.NDArray[np.int64] | None,
) -> tuple[TaskConfig, npt.NDArray[np.int64]]:
    from hre_torch.app.participation import propose_recipe
    from hre_torch.app.recipes import load_recipe

    known = [f"suite={file.suite}", f"participants={len(file.participants)}"]
    return propose_recipe(
        load_recipe(recipe, [*known, *changes]),
        roster_of(file, parameters),
        parameters,
        file.profile,
        start=start,
    )


def _of_model(
    file: RosterFile,
    parameters: Parameters,
    model: str,
    changes: list[str],
    start: npt.NDArray[np.int64] | None,
) -> tuple[TaskConfig, npt.NDArray[np.int64]]:
    from hre_torch.app.recipes.load import parse_overrides
    from hre_torch.optim.proposal import model_of, propose_task

    options = TaskOptions.of(
        {"suite": file.suite, "profile": file.profile, **parse_overrides(changes)}
    )
    # As `python -m` does; a console script does not.
    sys.path.insert(0, str(Path.cwd()))
    roster = roster_of(file, parameters)
    return propose_task(model_of(model), roster, parameters, options, start=start)


@app.command("show")
def show(roster: RosterPath) -> None:
    """Show what a roster says; nothing is verified."""
    _tell(read_roster(roster))


@app.command("verify")
def verify(
    roster: RosterPath,
    operator: Annotated[
        str | None, typer.Option(help="The operator's signing key, hexadecimal.")
    ] = None,
) -> None:
    """Verify every proof and signature of a signed roster.

    Exit code 4 is an alarm: it is another operator's roster, or was altered.
    """
    file = read_roster(roster)
    if operator is not None and operator_key(operator) != file.operator:
        _alarm(
            "this is not that operator's roster: it names the key "
            f"{file.operator.hex()}, you named {operator.lower()}"
        )
    try:
        task = task_of(file, profile_of(file, roster.parent))
    except SignatureError as error:
        _alarm(str(error))
    _tell(file)
    tell(f"verified: task {task.cfg.hex()}")


def _alarm(what: str) -> NoReturn:
    say(
        f"{what}. Somebody may have exchanged or altered it: do not use it, and ask "
        "its operator by telephone for key and fingerprint",
        title="ALARM",
        style="bold white on red",
    )
    raise typer.Exit(_EXIT_ALARM)


def _tell(file: RosterFile) -> None:
    for line in _summary(file):
        tell(line)


def _summary(file: RosterFile) -> list[str]:
    servers = [
        f"{name} {'missing' if card is None else card.signing_key.hex()}"
        for name, card in (("dsp", file.data_service), ("kts", file.key_transform))
    ]
    people = [f"{card.name} {card.signing_key.hex()}" for card in file.participants]
    lines = [
        f"suite {file.suite or 'not known yet'}, profile {file.profile or '-'}",
        f"operator {file.operator.hex() or 'missing'}",
        *servers,
        *people,
    ]
    if file.task is None:
        lines.append("not signed")
    else:
        task = file.task
        lines.append(
            f"signed: t={task.min_contributions} c={task.assumed_colluders} "
            f"K={task.max_additions} m={task.max_per_identity} Q={task.pending_limit} "
            f"S={task.staleness_bound} "
            f"b={task.value_bits} f={task.fraction_bits} combine={task.combine} "
            f"values={task.n_values}"
            f"{f' max_samples={task.max_samples}' if task.max_samples else ''}"
            f"{f' clip={task.clip}' if task.clip else ''}"
            f"{f' noise_width={task.noise_width}' if task.noise_width else ''}"
        )
    lines.append(f"fingerprint {fingerprint(file)}")
    return lines
