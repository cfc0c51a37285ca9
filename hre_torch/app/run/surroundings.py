"""What a script reads of its surroundings: who it is, and which federation it joins.

The same script trains in `hre_torch.simulate`, in threads of one process; under
`hre-torch run`, in processes of its own against servers on loopback; and at a hospital,
where the environment variable `HRE_TORCH_SITE` names a file that says which servers,
keys and roster.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sized
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import nn
from torch.utils.data import Dataset, IterableDataset, Subset

from hre_torch.app.run.launcher import (
    COUNT,
    DEFAULTS,
    NUMBER,
    OPTIONS,
    RUN,
    TIMEOUT,
)
from hre_torch.app.run.run_folder import Proposal, RunFolder
from hre_torch.app.run.site_file import join_site
from hre_torch.errors import UnsupportedError
from hre_torch.optim.proposal import describe_model
from hre_torch.participant.session import Session
from hre_torch.protocol.task_options import TaskOptions

__all__ = ["Surroundings", "join", "share", "surrounded"]

SITE: Final = "HRE_TORCH_SITE"


@dataclass(frozen=True)
class Surroundings:
    """Where a script runs.

    Attributes:
        number: which participant this is, from 0.
        count: how many there are.
        join: returns a session, given the model, the name and options of the task.
    """

    number: int
    count: int
    join: Callable[[nn.Module, str, Mapping[str, Any]], Session]


_HERE: ContextVar[Surroundings | None] = ContextVar("surroundings", default=None)


@contextlib.contextmanager
def surrounded(seen: Surroundings) -> Iterator[None]:
    """Let `join` and `share` see these surroundings inside, in this thread."""
    token = _HERE.set(seen)
    try:
        yield
    finally:
        _HERE.reset(token)


def join(module: nn.Module, task: str = "main", **options: Any) -> Session:
    """Return the session of whoever runs this script.

    Args:
        module: the model that is trained; its parameters may come in any order.
        task: name of the federation, where a script takes part in several.
        options: of the task, as for `Federation.local`, where this script is one of
            those that make it; they go before those of the command.

    Raises:
        UnsupportedError: nothing around says which federation to join, or two things
            do, or this is a process that a participant has started.
        TaskError: the federation cannot be made, or has this participant already.
    """
    here = _HERE.get()
    if here is not None:
        return here.join(module, task, options)
    if multiprocessing.parent_process() is not None:
        raise UnsupportedError(
            "join() was called in a process that this participant started, a data "
            "loader's worker for instance; call it once, in the main process, below "
            "if __name__ == '__main__'."
        )
    run, site = os.environ.get(RUN), os.environ.get(SITE)
    if run and site:
        raise UnsupportedError(
            f"{RUN} and {SITE} are both set: `hre-torch run` makes a federation of its "
            f"own, {SITE} names another one. Unset one of them."
        )
    if run:
        return _join_run(RunFolder(Path(run)), module, task, options)
    if site:
        return join_site(_site_of(site, task), module)
    raise UnsupportedError(
        "Nothing around this script says which federation to join. Try it out by "
        "`hre-torch run --participants 4 SCRIPT`, or by "
        "hre_torch.simulate(train, participants=4); in production, set "
        f"{SITE}=site.yaml. Or make a session yourself: Federation.local(model, "
        "...).join(), or hre_torch.connect(...)."
    )


def share(dataset: Dataset[Any]) -> Subset[Any]:
    """Return this participant's part of a data set: every P-th item.

    Args:
        dataset: map-style, the same for everybody. Real participants have data of their
            own; this is for trying out.

    Raises:
        UnsupportedError: the data set has no length, or nothing around says how many
            participants there are.
    """
    number, count = _place()
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        raise UnsupportedError(
            f"A {type(dataset).__name__} has no items by number; give a map-style data "
            "set, or let it read HRE_TORCH_PARTICIPANT of HRE_TORCH_PARTICIPANTS."
        )
    return Subset(dataset, range(number, len(dataset), count))


def _join_run(
    folder: RunFolder, module: nn.Module, task: str, options: Mapping[str, Any]
) -> Session:
    """Return the session of a script that `hre-torch run` has started."""
    number, _ = _place()
    folder.task(task)
    if number == 0:
        given = json.loads(os.environ.get(OPTIONS, "{}"))
        chosen = given | dict(options)
        facts, initial = describe_model(module, TaskOptions.of(chosen))
        overridden = tuple(n for n in options if n in given and given[n] != options[n])
        octets = initial.astype("<i8").tobytes()
        folder.propose(task, Proposal(facts, octets, chosen, overridden))
    timeout = float(os.environ.get(TIMEOUT, "60"))
    session = join_site(folder.wait_for_site(task, number, timeout), module)
    session.defaults = json.loads(os.environ.get(DEFAULTS, "{}"))
    folder.join(task, number)
    return session


def _site_of(named: str, task: str) -> Path:
    if "{task}" in named:
        return Path(named.replace("{task}", task))
    if task != "main":
        raise UnsupportedError(
            f"The script joins task {task!r}, but {SITE}={named} names one task only; "
            "write {task} where the files of several tasks differ, such as "
            "/etc/hre_torch/{task}.yaml."
        )
    return Path(named)


def _place() -> tuple[int, int]:
    here = _HERE.get()
    if here is not None:
        return here.number, here.count
    try:
        number, count = int(os.environ[NUMBER]), int(os.environ[COUNT])
    except (KeyError, ValueError):
        raise UnsupportedError(
            f"Nothing around says how many participants there are: set {NUMBER} (from "
            f"0) and {COUNT}, or call hre_torch.simulate."
        ) from None
    if not 0 <= number < count:
        raise UnsupportedError(
            f"{NUMBER} is {number} and {COUNT} is {count}; the first must be from 0 to "
            f"{count - 1}."
        )
    return number, count
