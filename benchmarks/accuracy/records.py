"""What was trained so far: one file, which is also what is published.

A study that takes hours is interrupted, goes on elsewhere, and is published before its
end. So every training is written to the file as soon as it is finished, and whatever is
there for the same recipe is not trained again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.accuracy.matrix import Cell
from hre_torch.durable_files import replace_file
from hre_torch.errors import ConfigurationError

__all__ = ["Records"]

_FORMAT: Final = "hre_torch accuracy 2"


class Records:
    """The records of trainings by cell, kept in a file.

    Args:
        path: the file; it need not exist.
        environment: what `benchmarks.environment.describe` returned.
        image_folder: CIFAR-10 as image folders; through torchvision if left out.

    Raises:
        ConfigurationError: the file is no study of this format.
    """

    def __init__(
        self, path: Path, environment: Mapping[str, Any], image_folder: str | None
    ) -> None:
        self._path, self._environment = path, environment
        self._image_folder = image_folder
        self._by_key: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.take_over(path)

    def take_over(self, path: Path) -> None:
        """Add the records of another study, or of this one's other machine.

        Raises:
            ConfigurationError: the file is missing, or no study of this format.
        """
        try:
            document = json.loads(path.read_bytes())
            found = document["format"]
            if found == _FORMAT:
                self._by_key.update(document["cells"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{path} is no accuracy study ({error}); name another file or folder"
            ) from error
        if found != _FORMAT:
            raise ConfigurationError(
                f"{path} has format {found!r}, this program reads {_FORMAT!r}; let it "
                "write to another folder"
            )

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """Return a cell's record, unless it is missing or that of another recipe."""
        record = self._by_key.get(cell.key)
        if record is None:
            return None
        recipe = cell.recipe(self._image_folder, record["device"])
        return record if record["recipe"] == recipe.to_yaml() else None

    def put(self, cell: Cell, record: dict[str, Any]) -> None:
        """Add a cell's record, and write the file."""
        self._by_key[cell.key] = record
        self.write()

    def write(self) -> None:
        """Write the file, so that it is either the old one or the new one."""
        document = {
            "format": _FORMAT,
            "environment": self._environment,
            "cells": dict(sorted(self._by_key.items())),
        }
        replace_file(self._path, (json.dumps(document, indent=1) + "\n").encode())
