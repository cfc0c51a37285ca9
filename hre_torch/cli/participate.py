"""`hre-torch participate`: train one participant's share against real servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from hre_torch.cli.passphrases import PassphraseFile, ask_passphrase
from hre_torch.cli.screen import messages, say, tell

__all__ = ["participate"]


def participate(
    recipe: Annotated[Path, typer.Argument(help="What is trained.")],
    dsp: Annotated[str, typer.Option(help="URL of the DSP.")],
    key: Annotated[Path, typer.Option(help="Your key file.")],
    roster: Annotated[Path, typer.Option(help="The signed roster.")] = Path(
        "roster.json"
    ),
    initial: Annotated[
        Path | None, typer.Option(help="First weights; needed only at the start.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the released weights here.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("-o", help="key=value of the recipe.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Remember here how far you are, and go on from there."),
    ] = None,
    own_data: Annotated[
        bool, typer.Option(help="Train on all local data, not on a share of it.")
    ] = False,
    ca: Annotated[
        Path | None, typer.Option(help="PEM certificates to trust, for https.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0, help="Seconds without an answer till it is an error; else wait."
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds at the end, at most, for others to release the rest."
        ),
    ] = 60.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write JSON lines, one an epoch.")
    ] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Train your share of RECIPE; nothing leaves this machine unencrypted."""
    from hre_torch.app.participant_checkpoint import Checkpoint
    from hre_torch.app.participation import train_participant
    from hre_torch.app.recipes import load_recipe
    from hre_torch.errors import RunDirectoryError
    from hre_torch.participant.connection import connect, write_weights
    from hre_torch.protocol.suites import SUITES
    from hre_torch.setup.roster_file import read_roster

    file = read_roster(roster)
    overrides = [f"suite={file.suite}", f"participants={len(file.participants)}"]
    loaded = load_recipe(recipe, [*overrides, *(override or [])])

    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise RunDirectoryError(
            f"--out {out} is a folder, or lies in none; make that, or name another file"
        )
    memory = None if state is None else Checkpoint(state)

    suite = SUITES.get(file.suite)
    if not as_json and not suite.baseline:
        title = f"suite {suite.name} protects"
        say(suite.protects, title=title, style="bold green", prose=True)
    session = connect(
        dsp,
        key_file=key,
        roster=roster,
        passphrase=ask_passphrase(key, passphrase_file),
        initial=initial,
        state=None if memory is None else memory.session(),
        ca_file=ca,
        timeout=timeout,
        workers=loaded.workers,
    )
    with ExitStack() as stack:
        stack.callback(session.close)
        show = None if as_json else _shown(stack, recipe.stem)
        done = train_participant(
            loaded,
            session,
            show or _as_json,
            own_data=own_data,
            memory=memory,
            watch=show,
            wait=wait,
        )
        end = {
            "participant": session.name,
            "accuracy": done.accuracy,
            "version": done.version,
        }
        if show is not None:
            show(end | {"event": "evaluation"})
    if out is not None:
        write_weights(out, done.weights)
    if memory is not None:
        memory.forget()
    if as_json:
        _as_json({"event": "end"} | end)
        return
    tell(f"version {done.version}: test accuracy {100.0 * done.accuracy:.2f} %")
    if out is not None:
        tell(f"Written to {out}")


def _as_json(record: dict[str, Any]) -> None:
    typer.echo(json.dumps(record))


def _shown(stack: ExitStack, title: str) -> Callable[[dict[str, Any]], None]:
    """Return what draws records as `train` does, from the first one on."""
    from hre_torch.app.training.display import TrainingDisplay

    drawn: list[TrainingDisplay] = []

    def show(record: dict[str, Any]) -> None:
        if not drawn:
            name, steps = record["participant"], record["steps"]
            display = TrainingDisplay(title, [name], steps, {}, console=messages)
            drawn.append(stack.enter_context(display))
        drawn[0].update(record)

    return show
