"""`hre-torch run`: a federation out of one script, every part a process of its own.

The parent alone holds the operator's key. Participant 0's model is what a task is made
from; the parent makes everybody's keys, signs, and starts both servers on loopback. The
participants connect as they would to servers elsewhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from hre_torch.app.run.loopback_servers import LoopbackServers, end_process
from hre_torch.app.run.run_folder import RunFolder
from hre_torch.errors import HREError

__all__ = ["COUNT", "DEFAULTS", "NUMBER", "OPTIONS", "RUN", "TIMEOUT", "Launcher"]

RUN: Final = "HRE_TORCH_RUN"
NUMBER: Final = "HRE_TORCH_PARTICIPANT"
COUNT: Final = "HRE_TORCH_PARTICIPANTS"
OPTIONS: Final = "HRE_TORCH_RUN_OPTIONS"
DEFAULTS: Final = "HRE_TORCH_RUN_DEFAULTS"
TIMEOUT: Final = "HRE_TORCH_RUN_TIMEOUT"

_THREADS: Final = "OMP_NUM_THREADS"
"""How many threads torch computes with."""
_LOOK_EVERY: Final = 0.1
_END_SECONDS: Final = 10.0
_SIGNALLED: Final = 128

Tell = Callable[[str, str], None]
"""Given who speaks, such as `"p0"` or `"run"`, and a line."""
Watch = Callable[[str], None]
"""Given a line about how far the federation is, whenever it changes."""


class Launcher:
    """Starts participants of a script, and servers for every task that they join.

    Args:
        command: the script and its arguments.
        participants: how many, >= 1.
        options: of the task, by name, where the script says nothing else.
        defaults: arguments of `HREOptimizer` that the script leaves out.
        timeout: seconds that a participant waits for a task.
        folder: empty, of this user alone; keys and stores are kept there.
        tell: told every line of output.
        watch: told how far it is.
    """

    def __init__(
        self,
        command: Sequence[str],
        participants: int,
        *,
        options: Mapping[str, Any],
        defaults: Mapping[str, Any],
        timeout: float,
        folder: Path,
        tell: Tell,
        watch: Watch,
    ) -> None:
        self._command = list(command)
        self._count = participants
        self._options = dict(options)
        self._defaults = dict(defaults)
        self._timeout = timeout
        self._folder = RunFolder(folder)
        self._tell, self._watch = tell, watch
        self._scripts: list[_Process] = []
        self._servers: dict[str, LoopbackServers] = {}
        self._handled: set[str] = set()
        self._last_line = ""

    def run(self) -> int:
        """Run until all participants have ended.

        Returns:
            The worst exit status of a participant; 1 if a server failed.
        """
        try:
            self._scripts = [self._start(number) for number in range(self._count)]
            while any(script.runs() for script in self._scripts):
                self._look()
                if not all(servers.runs() for servers in self._servers.values()):
                    self._tell("run", "A server has ended; everything is stopped.")
                    return 1
                time.sleep(_LOOK_EVERY)
            self._look()
            return max(script.status() for script in self._scripts)
        finally:
            for script in self._scripts:
                script.end()
            for servers in self._servers.values():
                servers.end()

    def _start(self, number: int) -> _Process:
        surroundings = {
            RUN: str(self._folder.path),
            NUMBER: str(number),
            COUNT: str(self._count),
            OPTIONS: json.dumps(self._options),
            DEFAULTS: json.dumps(self._defaults),
            TIMEOUT: str(self._timeout),
            "PYTHONUNBUFFERED": "1",
            # Several processes that each use every core get in each other's way.
            _THREADS: os.environ.get(_THREADS, str(self._threads())),
        }
        return _Process(
            f"p{number}",
            [sys.executable, *self._command],
            os.environ | surroundings,
            self._tell,
        )

    def _threads(self) -> int:
        return max(1, (os.cpu_count() or 1) // self._count)

    def _look(self) -> None:
        for script in self._scripts:
            script.tell_of_end()
        for task in self._folder.tasks():
            if task not in self._handled:
                self._handled.add(task)
                self._open(task)
        if not self._scripts[0].runs():
            self._folder.end(
                f"participant 0 ended with status {self._scripts[0].status()} and has "
                "not joined this task, whose model it was to be made from; its output "
                "says why"
            )
        line = self._progress()
        if line != self._last_line:
            self._last_line = line
            self._watch(line)

    def _open(self, task: str) -> None:
        """Make keys, sign, start servers: what participant 0 has proposed."""
        proposal = self._folder.proposal(task)
        for name in proposal.overridden:
            self._tell(
                "run",
                f"task {task}: the script's {name}={proposal.options[name]!r} "
                f"overrides {self._options[name]!r} of the command",
            )
        try:
            self._servers[task] = LoopbackServers(
                self._folder.task(task), proposal, self._count
            )
        except HREError as error:
            self._tell("run", f"task {task}: {error}")
            self._folder.fail(task, str(error))
            return
        for number in range(self._count):
            text = self._servers[task].site(number)
            self._folder.write_site(task, number, text)

    def _progress(self) -> str:
        told = []
        for task, servers in self._servers.items():
            joined = self._folder.joined(task)
            name = "" if task == "main" else f"{task}: "
            told.append(f"{name}{joined} of {self._count} joined, {servers.progress()}")
        running = sum(script.runs() for script in self._scripts)
        return f"{running} of {self._count} running; " + "; ".join(
            told or ["waiting for participant 0 to join"]
        )


class _Process:
    """A participant: its output is read line by line, and told."""

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str], tell: Tell
    ) -> None:
        self._name = name
        self._tell = tell
        self._told = False
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def runs(self) -> bool:
        return self._process.poll() is None

    def status(self) -> int:
        """Return the exit status as a shell shows it."""
        status = self._process.returncode
        return _SIGNALLED - status if status < 0 else status

    def tell_of_end(self) -> None:
        if self._told or self.runs():
            return
        self._told = True
        self._reader.join(_END_SECONDS)
        if self.status():
            self._tell("run", f"{self._name} ended with status {self.status()}")

    def end(self) -> None:
        end_process(self._process)
        self._reader.join(_END_SECONDS)

    def _read(self) -> None:
        output: IO[str] | None = self._process.stdout
        for line in output or ():
            self._tell(self._name, line.rstrip("\n"))
