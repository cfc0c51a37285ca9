"""Scalars for TensorBoard: the only file that imports it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from hre_torch.errors import MissingExtraError

__all__ = ["TensorBoardWriter", "tensorboard_is_installed"]

# Seconds of training between two points of one participant's curves. A scalar costs
# about as much as a tenth of a small network's step, and a screen shows no more points.
_EVERY: Final = 0.5


_OF_A_PUSH: Final = (
    "loss",
    "update_norm",
    "staleness",
    "pending",
    "bytes_up",
    "bytes_down",
)


def tensorboard_is_installed() -> bool:
    """Whether the extra `tensorboard` is there; imports nothing."""
    return find_spec("tensorboard") is not None


class TensorBoardWriter:
    """Writes records of `metrics.jsonl` as scalars; a listener and context manager.

    Args:
        path: folder of the event files.
        purge_step: first global step that a resumed run makes again; points from there
            on are hidden.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, path: Path, *, purge_step: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "TensorBoard is not installed; `pip install 'hre-torch[tensorboard]'`, "
                "or leave --tensorboard out"
            ) from error
        self._writer: Any = SummaryWriter(str(path), purge_step=purge_step)
        self._written: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()

    def update(self, record: Mapping[str, Any]) -> None:
        """Take in one record; events without scalars are passed over."""
        event = record.get("event")
        if event == "push":
            self._push(record)
        elif event == "phases":
            self._phases(record)
        elif event == "evaluation":
            for name in ("accuracy", "loss", "bytes_up", "bytes_down", "version"):
                self._add(f"test/{name}", record.get(name), record)
        elif event == "end":
            # The files of the run are signed next.
            self._writer.flush()

    def _push(self, record: Mapping[str, Any]) -> None:
        name, seconds = record["participant"], record["seconds"]
        if seconds - self._written.get(name, float("-inf")) < _EVERY:
            return
        self._written[name] = seconds
        for scalar in _OF_A_PUSH:
            self._add(f"{scalar}/{name}", record.get(scalar), record)

    def _phases(self, record: Mapping[str, Any]) -> None:
        for phase, milliseconds in record["phases"].items():
            self._add(
                f"ms_{phase}/{record.get('participant', 'servers')}",
                milliseconds,
                record,
            )

    def _add(self, tag: str, value: float | None, record: Mapping[str, Any]) -> None:
        if value is not None:
            self._writer.add_scalar(tag, value, record["global_step"], new_style=True)
