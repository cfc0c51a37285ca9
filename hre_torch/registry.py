"""Named plug-ins: suites, aggregators and whatever else a third party may add.

A registry knows its built-in plug-ins by import path (nothing is imported before it is
asked for), accepts further ones through `register`, and finds those that installed
packages declare as entry points.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from hre_torch.errors import UnknownPluginError

__all__ = ["Registry", "nearest"]

Plugin = TypeVar("Plugin")


def nearest(word: str, choices: list[str]) -> str:
    """Return a sentence that suggests the nearest spelling, or lists the choices.

    >>> nearest("papr", ["paper", "plain"])
    "did you mean 'paper'? Allowed: paper, plain"
    """
    close = difflib.get_close_matches(word, choices, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Allowed: {', '.join(choices)}"


class Registry(Generic[Plugin]):
    """Plug-ins of one kind by name.

    Args:
        kind: what a plug-in is, for messages, such as `"suite"`.
        group: entry-point group in which installed packages declare theirs.
        builtin: name to `"module:attribute"` of the plug-ins shipped here.
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        self._kind = kind
        self._group = group
        self._paths = dict(builtin)
        self._loaded: dict[str, Plugin] = {}

    def register(self, name: str) -> Callable[[Plugin], Plugin]:
        """Return a decorator that registers a plug-in of this process under `name`."""

        def add(plugin: Plugin) -> Plugin:
            self._loaded[name] = plugin
            return plugin

        return add

    def names(self) -> list[str]:
        """Return every known name, built-in, registered or installed, sorted."""
        installed = {point.name for point in entry_points(group=self._group)}
        return sorted(installed | set(self._paths) | set(self._loaded))

    def get(self, name: str) -> Plugin:
        """Return the plug-in of that name, importing it if need be.

        Raises:
            UnknownPluginError: no plug-in has that name.
        """
        name = str(name)
        if name in self._loaded:
            return self._loaded[name]
        if name in self._paths:
            module, attribute = self._paths[name].split(":")
            self._loaded[name] = cast(Plugin, getattr(import_module(module), attribute))
            return self._loaded[name]
        found: Any = [p for p in entry_points(group=self._group) if p.name == name]
        if found:
            self._loaded[name] = cast(Plugin, found[0].load())
            return self._loaded[name]
        raise UnknownPluginError(
            f"there is no {self._kind} named {name!r}: {nearest(name, self.names())}"
        )
