"""What a participant remembers on its disk, so that it goes on after it was killed.

The file holds no key, but released weights and the local model, so only its owner may
read it. It is replaced in one step. What happened between the last time it was written
and the kill is not in it: uploads that were sent since then are with the servers, which
say how many there are, and the batches that they were made from are not trained again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from safetensors import SafetensorError

from hre_torch.app.training.checkpoint import LearnerState, decode_tensor, encode_tensor
from hre_torch.durable_files import replace_file
from hre_torch.errors import RunDirectoryError
from hre_torch.optim.optimizer import STATE_KEY
from hre_torch.participant.session import Session
from hre_torch.participant.session_state import SessionState

__all__ = ["Checkpoint", "Remembered", "Sent"]

_FORMAT: Final = 4
_PRIVATE: Final = 0o600


class Remembered(msgspec.Struct):
    """Where one participant stood.

    Attributes:
        cfg: hash of the task.
        name: the participant.
        recipe: SHA-256 of the resolved recipe.
        step: local steps taken.
        session: its session; every upload so far is acknowledged.
        learner: model, optimizer, scheduler.
        random_state: torch's generators, which dropout draws from, by type of device,
            uint8 each.
        format: version of this format.
    """

    cfg: bytes
    name: str
    recipe: bytes
    step: int
    session: SessionState
    learner: LearnerState
    random_state: dict[str, Any]
    format: int = _FORMAT

    @property
    def sent(self) -> Sent:
        """How far its pushes had come."""
        since_push = self.learner.optimizer[STATE_KEY]["progress"]["since_push"]
        return Sent(self.step - since_push, self.session.participant.sequence)


@dataclass(frozen=True, slots=True)
class Sent:
    """How far the pushes of a participant had come at one moment.

    Attributes:
        steps: local steps that were in them.
        sequence: number of the next upload.
    """

    steps: int
    sequence: int

    def reckoned(self, sequence: int, push_every: int) -> int:
        """Return how many steps are in the pushes when that is the next number.

        True while every push holds `push_every` steps and uses one number. Others are
        to be noted as soon as they have happened.
        """
        return self.steps + (sequence - self.sequence) * push_every


class Checkpoint:
    """The file.

    Args:
        path: where it lies; its folder must exist.
        every: least seconds between two writes.

    Attributes:
        sent: how far pushes had come when it was written last, by this process.
    """

    def __init__(self, path: Path, every: float = 10.0) -> None:
        self.path = path
        self._every = every
        self._next = time.monotonic() + every
        self._version = 0
        self.sent: Sent | None = None

    def recall(self, name: str, cfg: bytes, recipe: bytes) -> Remembered | None:
        """Return what was remembered last, None if nothing was.

        Args:
            name: who wants to know.
            cfg: hash of its task.
            recipe: SHA-256 of its resolved recipe.

        Raises:
            RunDirectoryError: the file is damaged, or belongs to somebody else, to
                another task, or to another recipe.
        """
        found = self._read()
        if found is None:
            return None
        for what, seen, expected in (
            ("participant", found.name, name),
            ("task", found.cfg.hex()[:16], cfg.hex()[:16]),
            ("recipe", found.recipe.hex()[:16], recipe.hex()[:16]),
        ):
            if seen != expected:
                raise RunDirectoryError(
                    f"{self.path} remembers {what} {seen}, this is {what} {expected}; "
                    "name another file, or remove this one to start afresh"
                )
        return found

    def session(self) -> SessionState | None:
        """Return where the session stood, to connect with; None if nothing is known.

        Raises:
            RunDirectoryError: the file is damaged.
        """
        found = self._read()
        return None if found is None else found.session

    def keep_if_due(
        self,
        remembered: Callable[[], Remembered],
        session: Session,
        sent: Sent,
        push_every: int,
    ) -> None:
        """Write where the participant stands, if the last time is long enough ago.

        It is so, too, if half of the releases that the task's staleness bound allows
        have come since: servers keep releases for a while only. And if a push held more
        steps than others do, or one used more numbers, which nobody could reckon later.

        Args:
            remembered: tells where the participant stands.
            session: its session, which is told how far back it may come.
            sent: how far its pushes have come.
            push_every: local steps in a push.
        """
        lag = session.version - self._version
        if (
            self._foretold(sent, push_every)
            and time.monotonic() < self._next
            and 2 * lag < session.task.config.staleness_bound
        ):
            return
        self.keep(remembered())
        session.may_return_to(self._version)

    def keep(self, remembered: Remembered) -> None:
        """Write where the participant stands.

        Raises:
            RunDirectoryError: the file cannot be written.
        """
        data = msgspec.msgpack.encode(remembered, enc_hook=encode_tensor)
        try:
            replace_file(self.path, data, _PRIVATE)
        except OSError as error:
            raise RunDirectoryError(
                f"cannot write {self.path}: {error.strerror}"
            ) from error
        self._next = time.monotonic() + self._every
        self._version = remembered.session.participant.version
        self.sent = remembered.sent

    def forget(self) -> None:
        """Remove the file: what the training came to is where it belongs."""
        self.path.unlink(missing_ok=True)

    def _foretold(self, sent: Sent, push_every: int) -> bool:
        return (
            self.sent is not None
            and self.sent.reckoned(sent.sequence, push_every) == sent.steps
        )

    def _read(self) -> Remembered | None:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunDirectoryError(
                f"cannot read {self.path}: {error.strerror}"
            ) from error
        try:
            found = msgspec.msgpack.decode(
                data, type=Remembered, ext_hook=decode_tensor
            )
        except (
            msgspec.DecodeError,
            SafetensorError,
            UnicodeDecodeError,
            RecursionError,
        ) as error:
            raise RunDirectoryError(
                f"{self.path} is damaged ({error}); remove it to start afresh"
            ) from error
        if found.format != _FORMAT:
            raise RunDirectoryError(
                f"{self.path} has format {found.format}, this version of hre_torch "
                f"reads format {_FORMAT}"
            )
        return found
