"""`hre-torch serve dsp|kts`: run a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hre_torch.cli.passphrases import ask_passphrase

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Run a server; torch is not needed.")

Config = Annotated[Path, typer.Option(help="YAML file; see the README.")]


@app.command("dsp")
def dsp(config: Config = Path("dsp.yaml")) -> None:
    """Run a data service provider until SIGTERM or Ctrl-C."""
    from hre_torch.servers.serving import serve_dsp

    serve_dsp(config, ask_passphrase)


@app.command("kts")
def kts(config: Config = Path("kts.yaml")) -> None:
    """Run a key transform server until SIGTERM or Ctrl-C."""
    from hre_torch.servers.serving import serve_kts

    serve_kts(config, ask_passphrase)
