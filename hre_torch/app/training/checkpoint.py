"""Everything that a run needs to go on after an interruption.

A checkpoint is one MessagePack document, so that it is written in one piece. A tensor
in it is an extension value that holds a small safetensors file. Neither format can name
code to run: a checkpoint from elsewhere may hold wrong numbers, but executes nothing.
It holds everybody's keys; whoever writes it to disk makes the file private.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from hre_torch.app.training.phases import PhaseTotal
from hre_torch.app.training.schedule import ScheduleState
from hre_torch.errors import RunDirectoryError
from hre_torch.optim.federation import FederationState

__all__ = [
    "FORMAT",
    "Checkpoint",
    "LearnerState",
    "RunState",
    "decode_checkpoint",
    "decode_tensor",
    "encode_checkpoint",
    "encode_tensor",
    "recipe_digest",
]


class LearnerState(msgspec.Struct):
    """One participant's training, its session aside.

    Attributes:
        model: the module's `state_dict`: parameters and buffers.
        optimizer: the `state_dict` of its `HREOptimizer`.
        scheduler: the `state_dict` of its learning-rate scheduler, or None.
        loss_sum: sum of the losses since its last record.
        loss_count: how many losses that are.
    """

    model: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None
    loss_sum: float
    loss_count: int


class RunState(msgspec.Struct):
    """A run between two steps; it holds everybody's keys.

    Attributes:
        federation: servers, sessions and all secrets.
        schedule: whose turn it is.
        learners: participants by name.
        evaluations: how many evaluations were made.
        seconds: wall-clock time spent training so far.
        phases: party to phase to what was measured so far.
        random_state: torch's generators, which dropout draws from, by type of device,
            uint8 each; None before the first step.
    """

    federation: FederationState
    schedule: ScheduleState
    learners: dict[str, LearnerState]
    evaluations: int
    seconds: float
    phases: dict[str, dict[str, PhaseTotal]]
    random_state: dict[str, Any] | None

    @property
    def global_step(self) -> int:
        """Steps of all participants together."""
        return sum(self.schedule.taken)


FORMAT: Final = 4
"""Version of the documents that are written and read."""
_TENSOR: Final = 1
"""MessagePack extension code of a tensor; applications may use 0 to 127."""


class Checkpoint(msgspec.Struct):
    """What is on disk.

    Attributes:
        format: version of this format.
        recipe: SHA-256 of the resolved recipe.
        metrics_bytes: length of `metrics.jsonl` when the state was taken; records after
            that are of steps that a resumed run makes again.
        transcript_bytes: the same of `transcript.bin`.
        state: the run.
    """

    format: int
    recipe: bytes
    metrics_bytes: int
    transcript_bytes: int
    state: RunState


def recipe_digest(text: str) -> bytes:
    """Return SHA-256 of a resolved recipe's YAML."""
    return hashlib.sha256(text.encode()).digest()


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Return the document."""
    return msgspec.msgpack.encode(checkpoint, enc_hook=encode_tensor)


def decode_checkpoint(data: bytes) -> Checkpoint:
    """Read a document.

    Raises:
        RunDirectoryError: it is damaged, or was written by another version.
    """
    try:
        # The version first: a document of another one need not have the same fields.
        version = msgspec.msgpack.decode(data, type=_Versioned).format
        if version != FORMAT:
            raise RunDirectoryError(
                f"the checkpoint has format {version}, this version of hre_torch reads "
                f"format {FORMAT}; resume it with the version that wrote it"
            )
        return msgspec.msgpack.decode(data, type=Checkpoint, ext_hook=decode_tensor)
    except (
        msgspec.DecodeError,
        SafetensorError,
        UnicodeDecodeError,
        RecursionError,
    ) as error:
        raise RunDirectoryError(
            f"the checkpoint is damaged ({error}); start the run again in another "
            "directory"
        ) from error


class _Versioned(msgspec.Struct):
    format: int


def encode_tensor(value: Any) -> msgspec.msgpack.Ext:
    """Return a tensor as an extension value: a hook of msgspec's encoder."""
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().contiguous()
        return msgspec.msgpack.Ext(_TENSOR, safetensors.torch.save({"": tensor}))
    raise NotImplementedError(f"a checkpoint cannot hold a {type(value).__name__}")


def decode_tensor(code: int, data: memoryview) -> Tensor:
    """Return the tensor in an extension value: a hook of msgspec's decoder."""
    if code != _TENSOR:
        raise msgspec.DecodeError(f"there is no extension type {code}")
    tensors = safetensors.torch.load(bytes(data))
    if set(tensors) != {""}:
        raise msgspec.DecodeError("an extension value holds exactly one tensor")
    return tensors[""]
