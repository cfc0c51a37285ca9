"""The folder of one run: what was asked for, what happened, what came out.

    recipe.yaml           the resolved recipe
    metrics.jsonl         one record per line, as they happened
    transcript.bin        every message of the servers, for an audit
    checkpoint/           what resuming needs, private; removed when the run is finished
    tensorboard/          scalars, if they were wanted
    weights.safetensors   the released weights under the module's own names
    manifest.json         hashes of all of these and of the summary, signed
    summary.json          written last: a directory that has it is finished

Files are replaced in one step (written beside, fsynced, renamed), so that an
interruption at any moment leaves the old file or the new one. The checkpoint holds the
keys of everybody in a federation of one process; nobody but its owner may read it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from hre_torch.app.audit import TRANSCRIPT
from hre_torch.app.audit.manifest import (
    CHECKPOINT,
    METRICS,
    RECIPE,
    SUMMARY,
    WEIGHTS,
    write_manifest,
)
from hre_torch.app.training.checkpoint import (
    FORMAT,
    Checkpoint,
    RunState,
    decode_checkpoint,
    encode_checkpoint,
    recipe_digest,
)
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.durable_files import replace_file
from hre_torch.errors import RunDirectoryError

__all__ = ["RunDirectory", "cut_file", "file_size", "read_file"]


def file_size(path: Path) -> int:
    """Return the length of a file, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def read_file(path: Path) -> bytes:
    """Return what is in a file.

    Raises:
        RunDirectoryError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read ({error.strerror})") from error


def cut_file(path: Path, length: int) -> None:
    """Drop what was appended to a file after its checkpoint.

    Raises:
        RunDirectoryError: it is shorter than it was then.
    """
    present = file_size(path)
    if present < length:
        raise RunDirectoryError(
            f"{path} has {present} bytes, but had {length} when the checkpoint was "
            "written: it was changed, and the run cannot be resumed"
        )
    if present > length:
        os.truncate(path, length)


_STATE: Final = "run.msgpack"
_TENSORBOARD: Final = "tensorboard"


class RunDirectory:
    """One run on disk; made by `create` or `open`, closed with `close`.

    Args:
        path: the folder; it exists and has a resolved recipe in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics: BinaryIO | None = None

    @staticmethod
    def require_free(path: str | Path, recipe: str) -> None:
        """Check that a new run may be written to a path.

        Args:
            path: a folder that does not exist, or is empty.
            recipe: the resolved recipe as YAML, to say whose run is there already.

        Raises:
            RunDirectoryError: there is something.
        """
        path = Path(path)
        try:
            free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
        except OSError as error:
            raise RunDirectoryError(_unwritable(path, error)) from error
        if not free:
            raise RunDirectoryError(_occupied(path, recipe))

    @classmethod
    def create(cls, path: str | Path, recipe: str) -> RunDirectory:
        """Make the folder of a new run.

        Raises:
            RunDirectoryError: as `require_free`, or it cannot be written.
        """
        cls.require_free(path, recipe)
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            replace_file(path / RECIPE, recipe.encode())
        except OSError as error:
            raise RunDirectoryError(_unwritable(path, error)) from error
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Open the folder of an interrupted run.

        Raises:
            RunDirectoryError: it is no run directory, or that of a finished run.
        """
        path = Path(path)
        if not (path / RECIPE).is_file():
            raise RunDirectoryError(
                f"{path} is not a run directory: it has no {RECIPE}; "
                "`hre-torch train RECIPE --out DIR` makes one"
            )
        if (path / SUMMARY).exists():
            raise RunDirectoryError(
                f"the run in {path} is finished, there is nothing to resume; "
                f"`hre-torch report {path}` shows it"
            )
        return cls(path)

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe."""
        return self.path / RECIPE

    @property
    def weights_path(self) -> Path:
        """The released weights."""
        return self.path / WEIGHTS

    @property
    def transcript_path(self) -> Path:
        """What an audit re-checks."""
        return self.path / TRANSCRIPT

    @property
    def tensorboard_path(self) -> Path:
        """Where TensorBoard's scalars go."""
        return self.path / _TENSORBOARD

    def recipe(self) -> str:
        """Return the resolved recipe as YAML.

        Raises:
            RunDirectoryError: it cannot be read.
        """
        return read_file(self.recipe_path).decode(errors="replace")

    def require(self, recipe: str) -> None:
        """Check that this is the folder of a run of that resolved recipe.

        Raises:
            RunDirectoryError: it is of another one; the message shows what differs.
        """
        here = self.recipe()
        if here != recipe:
            raise RunDirectoryError(
                f"{self.path} is the run of another recipe ({_difference(here, recipe)}"
                "); leave the recipe out to resume it as it is, or start the other one "
                "in a directory of its own"
            )

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one record to `metrics.jsonl`; a listener.

        Records are buffered; those of evaluations, and checkpoints, flush them.
        """
        if self._metrics is None:
            self._metrics = self._metrics_path.open("ab")
        self._metrics.write(msgspec.json.encode(record) + b"\n")
        if record.get("event") not in ("push", "pull", "release"):
            self._metrics.flush()

    def has_checkpoint(self) -> bool:
        """Whether there is anything to resume from."""
        return self._state_path.is_file()

    def write_checkpoint(self, state: RunState) -> None:
        """Replace the checkpoint by a new one.

        Raises:
            RunDirectoryError: it cannot be written.
        """
        self._sync_metrics()
        checkpoint = Checkpoint(
            format=FORMAT,
            recipe=recipe_digest(self.recipe()),
            metrics_bytes=file_size(self._metrics_path),
            transcript_bytes=file_size(self.transcript_path),
            state=state,
        )
        data = encode_checkpoint(checkpoint)
        try:
            self._state_path.parent.mkdir(mode=0o700, exist_ok=True)
            replace_file(self._state_path, data, mode=0o600)
        except OSError as error:
            raise RunDirectoryError(
                f"the checkpoint {self._state_path} cannot be written "
                f"({error.strerror}); the one before is still there"
            ) from error

    def read_checkpoint(self) -> RunState:
        """Return the newest state, and cut off the records that came after it.

        Raises:
            RunDirectoryError: there is none, it is damaged, or of another recipe.
        """
        if not self.has_checkpoint():
            raise RunDirectoryError(
                f"the run in {self.path} was interrupted before anything was saved; "
                "delete the directory and start again"
            )
        checkpoint = decode_checkpoint(read_file(self._state_path))
        if checkpoint.recipe != recipe_digest(self.recipe()):
            raise RunDirectoryError(
                f"{self.recipe_path} is not the recipe that the checkpoint belongs to; "
                "undo the change, or start the new recipe in a directory of its own"
            )
        cut_file(self._metrics_path, checkpoint.metrics_bytes)
        cut_file(self.transcript_path, checkpoint.transcript_bytes)
        return checkpoint.state

    def finish(
        self,
        summary: Mapping[str, Any],
        weights: bytes,
        *,
        cfg: bytes,
        operator: SigningKey,
    ) -> None:
        """Write weights, signed list and summary; delete the checkpoint with its keys.

        Whatever else lies in the directory must be on disk by now.

        Args:
            summary: for `summary.json`.
            weights: for `weights.safetensors`.
            cfg: hash of the task.
            operator: the key that has signed the task; signs the list of files.

        Raises:
            RunDirectoryError: a file in the directory cannot be read, or none written.
        """
        text = msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
        self._sync_metrics()
        try:
            replace_file(self.weights_path, weights)
            write_manifest(self.path, cfg, operator, {SUMMARY: text})
            replace_file(self.path / SUMMARY, text)
        except OSError as error:
            raise RunDirectoryError(
                f"the end of the run cannot be written to {self.path} ({error}); see "
                f"to that, then go on with `hre-torch train --resume {self.path}`"
            ) from error
        shutil.rmtree(self._state_path.parent, ignore_errors=True)

    def close(self) -> None:
        """Close the records."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def _sync_metrics(self) -> None:
        if self._metrics is not None:
            self._metrics.flush()
            os.fsync(self._metrics.fileno())

    @property
    def _metrics_path(self) -> Path:
        return self.path / METRICS

    @property
    def _state_path(self) -> Path:
        return self.path / CHECKPOINT / _STATE


def _occupied(path: Path, recipe: str) -> str:
    if not (path / RECIPE).is_file():
        return f"{path} is not empty; name a directory that does not exist yet"
    if read_file(path / RECIPE).decode(errors="replace") != recipe:
        return (
            f"{path} holds the run of another recipe; name another directory for this "
            "one"
        )
    if (path / SUMMARY).exists():
        return f"{path} holds a finished run of this recipe; name another directory"
    return (
        f"{path} holds an interrupted run of this recipe; go on with "
        f"`hre-torch train --resume {path}`, or name another directory"
    )


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"the run directory {path} cannot be written ({error.strerror}); name one in a "
        "folder that you may write to"
    )


def _difference(here: str, there: str) -> str:
    old, new = here.splitlines(), there.splitlines()
    for ours, theirs in zip(old, new, strict=False):
        if ours != theirs:
            return f"it has {ours.strip()!r}, not {theirs.strip()!r}"
    return f"it has {len(old)} lines, not {len(new)}"
