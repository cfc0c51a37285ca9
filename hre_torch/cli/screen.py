"""How commands speak: results, messages, warnings, and errors a person can act upon.

Some of it was written by others: names, error texts and findings out of their files. So
nothing is printed that a terminal would obey, and no line of it starts where a line of
ours does.
"""

from __future__ import annotations

import codecs
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from hre_torch.errors import HREError, HREWarning

__all__ = [
    "Commands",
    "messages",
    "printable",
    "results",
    "say",
    "shown_warnings",
    "speak_any_encoding",
    "tell",
]

# Results can be piped; whatever is only for the person in front of it goes beside them.
results: Final = Console()
messages: Final = Console(stderr=True)

_EXIT_ERROR: Final = 2
_PLAIN: Final = {
    "\N{MIDDLE DOT}": "-",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{BULLET}": "*",
    "\N{BLACK SQUARE}": "*",
}
"""What stands for the few signs that are not ASCII in what we print ourselves."""


def printable(text: str) -> str:
    r"""Return text with everything spelled out that is no visible character.

    >>> print(printable("a\x1b[2Jb\n"))
    a\x1b[2Jb\n
    """
    spelled = (c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return "".join(spelled)


def tell(text: str, *, title: str = "", style: str = "bold") -> None:
    """Write one line of results to standard output, so that it can be copied or piped.

    Args:
        text: what to tell, without markup.
        title: a word before it, such as `wrong`.
        style: how to write the title.
    """
    start = f"[{style}]{title}[/]  " if title else ""
    results.print(
        start + escape(printable(text)), soft_wrap=True, highlight=False, emoji=False
    )


def say(
    text: str, *, title: str = "", style: str = "bold", prose: bool = False
) -> None:
    """Write a message to standard error, in one piece, so that it can be copied.

    Where it has several lines, all but the first are indented.

    Args:
        text: what to say, without markup.
        title: a word before it, such as `error`.
        style: how to write the title.
        prose: nobody copies this; break its lines between words.
    """
    start = f"[{style}]{title}:[/] " if title else ""
    lines = [escape(printable(line.strip())) for line in text.splitlines()]
    messages.print(
        start + "\n  ".join(lines), soft_wrap=not prose, highlight=False, emoji=False
    )


def speak_any_encoding() -> None:
    """Let standard output and error write what their encoding lacks in another way."""
    codecs.register_error("hre_torch", _spell)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="hre_torch")  # type: ignore[union-attr]


def _spell(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c, ascii(c)[1:-1]) for c in lacking), error.end


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
