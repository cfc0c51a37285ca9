"""The command `hre-torch`: composes what the floors below offer, computes nothing."""

from __future__ import annotations

from typing import Annotated

import typer

import hre_torch
from hre_torch.cli import database, keys, roster, scrutiny, serve, train
from hre_torch.cli.keys import add_role_commands
from hre_torch.cli.participate import participate
from hre_torch.cli.run import run
from hre_torch.cli.screen import Commands, speak_any_encoding, tell

__all__ = ["app", "main"]

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated training in which no server can read one participant's update.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        tell(f"hre-torch {hre_torch.__version__}")
        raise typer.Exit


@app.callback()
def hre_torch_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    """Federated training in which no server can read one participant's update."""


app.command()(train.train)
app.command()(train.estimate)
app.command()(train.report)
app.command()(scrutiny.attack)
app.command()(scrutiny.audit)
app.command()(participate)
app.command(
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True}
)(run)
add_role_commands(keys.app)
app.add_typer(keys.app, name="keygen")
app.add_typer(roster.app, name="roster")
app.add_typer(serve.app, name="serve")
app.add_typer(database.app, name="db")


def main() -> None:
    """Run the command line."""
    speak_any_encoding()
    app()
