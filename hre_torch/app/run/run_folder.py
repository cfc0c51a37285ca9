"""The folder through which `hre-torch run` and the scripts that it starts talk.

    tasks/NAME/proposal.msgpack    participant 0: the model, its weights, the options
    tasks/NAME/failed.txt          the parent: why there will be no such task
    tasks/NAME/site-N.yaml         the parent: what participant N connects with
    tasks/NAME/joined-N            participant N has a session

Every file appears in one piece. The folder and what is in it belong to one user.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from hre_torch.durable_files import replace_file
from hre_torch.errors import TaskError
from hre_torch.protocol.task_options import ModelFacts

__all__ = ["Proposal", "RunFolder"]

_TASK: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LOOK_EVERY: Final = 0.05
_PRIVATE: Final = 0o600


class Proposal(msgspec.Struct, frozen=True):
    """What participant 0 proposes.

    Attributes:
        facts: what a task says of its model.
        initial: its weights at scale 2^f, int64 little-endian.
        options: of the task, by name: those of the command, and the script's over them.
        overridden: names of the command's options that the script has changed.
    """

    facts: ModelFacts
    initial: bytes
    options: dict[str, Any]
    overridden: tuple[str, ...]


class RunFolder:
    """The folder of one run.

    Args:
        path: of the folder, which exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def task(self, name: str) -> Path:
        """Return the folder of a task, which is made if need be.

        Raises:
            TaskError: the name cannot be one.
        """
        if not _TASK.fullmatch(name):
            raise TaskError(
                f"a task cannot be called {name!r}; use small letters, digits, dots, "
                "underscores and hyphens, at most 64"
            )
        folder = self.path / "tasks" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def tasks(self) -> list[str]:
        """Return the names of the tasks that a proposal has come for."""
        proposals = self.path.glob("tasks/*/proposal.msgpack")
        return sorted(path.parent.name for path in proposals)

    def propose(self, name: str, proposal: Proposal) -> None:
        """Leave a proposal for the parent."""
        self._write(name, "proposal.msgpack", msgspec.msgpack.encode(proposal))

    def proposal(self, name: str) -> Proposal:
        """Return a proposal."""
        data = (self.task(name) / "proposal.msgpack").read_bytes()
        return msgspec.msgpack.decode(data, type=Proposal)

    def fail(self, name: str, reason: str) -> None:
        """Say why there will be no such task."""
        self._write(name, "failed.txt", reason.encode())

    def end(self, reason: str) -> None:
        """Say that participant 0 has ended, and proposes nothing any more."""
        replace_file(self.path / "ended.txt", reason.encode(), mode=_PRIVATE)

    def write_site(self, name: str, number: int, text: str) -> None:
        """Write what a participant connects with."""
        self._write(name, f"site-{number}.yaml", text.encode())

    def wait_for_site(self, name: str, number: int, timeout: float) -> Path:
        """Return the path of what a participant connects with, once it is there.

        Raises:
            TaskError: there will be none, or it did not come in time.
        """
        site = self.task(name) / f"site-{number}.yaml"
        deadline = time.monotonic() + timeout
        while not site.exists():
            for reason in (self.task(name) / "failed.txt", self.path / "ended.txt"):
                if reason.exists() and not site.exists():
                    raise TaskError(reason.read_text())
            if time.monotonic() >= deadline:
                raise TaskError(
                    f"participant 0, whose model task {name!r} is made from, has not "
                    f"joined it within {timeout:g} s; have every participant join the "
                    "same tasks, or give `hre-torch run --timeout` more seconds"
                )
            time.sleep(_LOOK_EVERY)
        return site

    def join(self, name: str, number: int) -> None:
        """Note that a participant has a session."""
        self._write(name, f"joined-{number}", b"")

    def joined(self, name: str) -> int:
        """Return how many participants have one."""
        return len(list(self.task(name).glob("joined-*")))

    def _write(self, task: str, name: str, data: bytes) -> None:
        replace_file(self.task(task) / name, data, mode=_PRIVATE)
