"""`hre-torch db check`: look at a server's store while it does not run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hre_torch.cli.screen import tell

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="A server's stored state.")


@app.callback()
def database() -> None:
    """Look at a server's stored state."""


@app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="The `store` of a configuration.")],
) -> None:
    """Check everything in a store; changes nothing. Exit code 1 if it is damaged."""
    from hre_torch.servers.store import check_store

    report = check_store(folder)
    for name in report.__slots__:
        value = getattr(report, name)
        if isinstance(value, list):
            for line in value:
                tell(f"{name}: {line}")
        else:
            tell(f"{name}: {value}")
    if report.findings:
        raise typer.Exit(1)
    tell("sound")
    tell(
        "Whether it is the newest copy, no folder can tell: the server compares "
        "version and chain with the other server at its start."
    )
