"""How commands speak: results, messages, warnings, and errors a person can act upon."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from hre_torch.errors import HREError, HREWarning

__all__ = ["Commands", "messages", "results", "say", "shown_warnings"]

# Results can be piped; whatever is only for the person in front of it goes beside them.
results: Final = Console()
messages: Final = Console(stderr=True)

_EXIT_ERROR: Final = 2


def say(
    text: str, *, title: str = "", style: str = "bold", prose: bool = False
) -> None:
    """Write a message to standard error, in one piece, so that it can be copied.

    Args:
        text: what to say, without markup.
        title: a word before it, such as `error`.
        style: how to write the title.
        prose: nobody copies this; break its lines between words.
    """
    start = f"[{style}]{title}:[/] " if title else ""
    messages.print(f"{start}{escape(text)}", soft_wrap=not prose, highlight=False)


class Commands(TyperGroup):
    """Shows every `HREError` as one message, and exits with 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with shown_warnings():
                return super().invoke(ctx)
        except HREError as error:
            say(str(error), title="error", style="bold red")
            raise typer.Exit(_EXIT_ERROR) from None


@contextmanager
def shown_warnings() -> Iterator[None]:
    """Show warnings of hre_torch as messages, without file and line."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", HREWarning)
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, HREWarning):
                say(str(message), title="warning", style="bold yellow")
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield
