"""`hre-torch run`: an unchanged script as a federation on this machine."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from hre_torch.cli.screen import printable, results

__all__ = ["run"]

_STEPS = 10
"""Four processes on one machine, and both servers, seal and add every push: at 1 that
takes longer than the steps. At 10 MNIST's script learns about as much as alone; see
benchmarks/results/run.md."""
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_red")


def run(
    command: Annotated[
        list[str], typer.Argument(help="Script and its arguments, such as main.py.")
    ],
    participants: Annotated[
        int, typer.Option("--participants", "-n", min=1, help="How many processes.")
    ] = 4,
    suite: Annotated[str | None, typer.Option(help="Protocol; hybrid.")] = None,
    profile: Annotated[str | None, typer.Option(help="Modulus profile.")] = None,
    min_contributions: Annotated[
        int | None, typer.Option(min=1, help="t, identities per release.")
    ] = None,
    combine: Annotated[str | None, typer.Option(help="sum, mean or weighted.")] = None,
    push_every: Annotated[
        str,
        typer.Option(
            metavar="STEPS|auto",
            help="Local steps from push to push; auto: exchanges take 20 % of the time "
            "at most.",
        ),
    ] = str(_STEPS),
    pull_every: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Local steps from pull to pull; {_STEPS}, none beside auto."
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for participant 0's model.")
    ] = 60.0,
) -> None:
    """Run a script once for each participant, and both servers, on this machine.

    In the script: HREOptimizer(optimizer, hre_torch.join(model)). What the script says
    itself goes before these options.
    """
    from hre_torch.app.run.launcher import Launcher

    options = _given(
        suite=suite,
        profile=profile,
        min_contributions=min_contributions,
        combine=combine,
    )
    defaults = _intervals(push_every, pull_every)
    # A terminal's hang-up, and kill, end everything as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with (
        tempfile.TemporaryDirectory(prefix="hre_torch-") as folder,
        results.status("starting") as status,
    ):
        launcher = Launcher(
            command,
            participants,
            options=options,
            defaults=defaults,
            timeout=timeout,
            folder=Path(folder),
            tell=_tell,
            watch=lambda line: status.update(escape(line)),
        )
        worst = launcher.run()
    raise typer.Exit(worst)


def _intervals(push_every: str, pull_every: int | None) -> dict[str, Any]:
    if push_every == "auto" and pull_every is None:
        return {"push_every": push_every}
    if push_every.isdecimal() and int(push_every) >= 1:
        return {"push_every": int(push_every), "pull_every": pull_every or _STEPS}
    raise typer.BadParameter(
        "give a whole number of steps, at least 1; or auto, and no --pull-every.",
        param_hint="--push-every",
    )


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _tell(who: str, line: str) -> None:
    number = int(who[1:]) if who[1:].isdigit() else -1
    colour = _COLOURS[number % len(_COLOURS)] if number >= 0 else "bold"
    said = f"[{colour}]{who:>3}[/] {escape(printable(line))}"
    results.print(said, soft_wrap=True, highlight=False, emoji=False)
