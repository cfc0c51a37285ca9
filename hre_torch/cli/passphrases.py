"""Where a passphrase comes from: a file, or a person."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from hre_torch.crypto.keys.key_files import read_passphrase

__all__ = ["PassphraseFile", "ask_new_passphrase", "ask_passphrase"]

_VARIABLE: Final = "HRE_TORCH_PASSPHRASE_FILE"

PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        envvar=_VARIABLE,
        help="File whose first line is the passphrase; asked for otherwise.",
    ),
]


def ask_passphrase(key: Path, file: Path | None) -> bytes:
    """Return the passphrase of a key file: from a file, or from whoever sits there.

    Args:
        key: the key file.
        file: of the passphrase; $HRE_TORCH_PASSPHRASE_FILE where None.

    Raises:
        KeyFileError: the passphrase file cannot be read.
    """
    if file is None and _VARIABLE in os.environ:
        file = Path(os.environ[_VARIABLE])
    if file is not None:
        return read_passphrase(file)
    text: str = typer.prompt(f"Passphrase of {key}", hide_input=True, err=True)
    return text.encode()


def ask_new_passphrase(key: Path, file: Path | None) -> bytes:
    """Return a passphrase for a new key file; a person types it twice.

    Raises:
        KeyFileError: the passphrase file cannot be read.
    """
    if file is not None:
        return read_passphrase(file)
    text: str = typer.prompt(
        f"New passphrase for {key}",
        hide_input=True,
        confirmation_prompt=True,
        err=True,
    )
    return text.encode()
