"""A whole federation out of one training function: for notebooks and first tries.

`simulate` runs the function once for each participant, in threads of this process. What
`hre_torch.join` and `hre_torch.share` return inside depends on the thread; the function
is the one that trains with real servers, too.

Threads share torch's random generator, so that two simulations differ in their last
bits; the recipe runner repeats.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from hre_torch.app.run.surroundings import Surroundings, surrounded
from hre_torch.errors import TaskError, UnsupportedError
from hre_torch.optim.federation import Federation
from hre_torch.participant.session import Session

__all__ = ["simulate"]


def simulate(
    train: Callable[..., Any],
    *,
    participants: int = 4,
    timeout: float = 60.0,
    **options: Any,
) -> dict[str, Any]:
    """Train a federation in this process; return the model that everybody has.

        def train():
            model, data = Net(), hre_torch.share(dataset)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            optimizer = HREOptimizer(optimizer, hre_torch.join(model))
            ...

        state = hre_torch.simulate(train, participants=4)

    The first participant's model is what the task is made from; the others wait for it
    and start from its weights. When a function returns, its optimizers finish.

    Args:
        train: called once for each participant; is given the participant's number, from
            0, if it takes an argument.
        participants: P, >= 1.
        timeout: seconds that a participant waits for others, at its start and its end.
        options: of the task, as for `Federation.local`.

    Returns:
        The `state_dict` of the newest released weights, with the local buffers of the
        participant who has them; of several tasks, a dictionary of them by name.

    Raises:
        UnsupportedError: the function joined no task.
        Exception: what a participant's function raised first; the others went on.
    """
    if participants < 1:
        raise TaskError(f"participants is {participants!r}; it must be at least 1")
    rooms = _Rooms(participants, timeout, options)
    runs = [_Run(train, rooms, number) for number in range(participants)]
    try:
        for run in runs:
            run.thread.start()
        for run in runs:
            run.thread.join()
        for run in runs:
            if run.error is not None:
                raise run.error
        return rooms.released()
    finally:
        rooms.close()


class _Run:
    """One participant's thread."""

    def __init__(self, train: Callable[..., Any], rooms: _Rooms, number: int) -> None:
        self.error: BaseException | None = None
        self._train = train
        self._rooms = rooms
        self._number = number
        # A program that is interrupted does not wait for it.
        self.thread = threading.Thread(
            target=self._run, name=f"participant {number}", daemon=True
        )

    def _run(self) -> None:
        seen = Surroundings(
            number=self._number,
            count=self._rooms.participants,
            join=lambda module, task, options: self._rooms.join(
                self._number, module, task, options
            ),
        )
        try:
            with surrounded(seen):
                if inspect.signature(self._train).parameters:
                    self._train(self._number)
                else:
                    self._train()
            self._rooms.finish(self._number)
        except BaseException as error:  # told by simulate, in its own thread
            self.error = error
        finally:
            self._rooms.leave(self._number)


class _Rooms:
    """The federations of a simulation, one for each task."""

    def __init__(
        self, participants: int, timeout: float, options: dict[str, Any]
    ) -> None:
        self.participants = participants
        self._timeout = timeout
        self._options = options
        self._changed = threading.Condition()
        self._federations: dict[str, Federation] = {}
        self._joined: dict[tuple[int, str], tuple[Session, nn.Module]] = {}
        self._gone: set[int] = set()

    def join(
        self, number: int, module: nn.Module, task: str, options: Mapping[str, Any]
    ) -> Session:
        with self._changed:
            if number == 0 and task not in self._federations:
                self._federations[task] = Federation.local(
                    module,
                    participants=self.participants,
                    **self._options | dict(options),
                )
                self._changed.notify_all()
            self._changed.wait_for(
                lambda: task in self._federations or 0 in self._gone, self._timeout
            )
            if task not in self._federations:
                raise TaskError(
                    f"participant 0, whose model task {task!r} is made from, "
                    + ("ended" if 0 in self._gone else "waits elsewhere")
                    + " and has not joined it; have every participant join the same "
                    "tasks"
                )
            federation = self._federations[task]
            session = federation.join(federation.names[number], module=module)
            self._joined[number, task] = session, module
            return session

    def finish(self, number: int) -> None:
        for (who, _), (session, _) in list(self._joined.items()):
            if who == number and session.optimizer is not None:
                session.optimizer.finish(self._timeout)

    def leave(self, number: int) -> None:
        with self._changed:
            self._gone.add(number)
            self._changed.notify_all()
        for (who, _), (session, _) in list(self._joined.items()):
            if who == number:
                session.others_may_push()

    def released(self) -> dict[str, Any]:
        newest: dict[str, tuple[Session, nn.Module]] = {}
        for (_, task), (session, module) in self._joined.items():
            if session.optimizer is None:
                continue
            if task not in newest or session.version > newest[task][0].version:
                newest[task] = session, module
        if not newest:
            raise UnsupportedError(
                "No participant trained with a session: write "
                "HREOptimizer(optimizer, hre_torch.join(model)) in the function."
            )
        states: dict[str, dict[str, Tensor]] = {
            task: session.optimizer.released_state_dict(module)
            for task, (session, module) in newest.items()
        }
        return next(iter(states.values())) if len(states) == 1 else states

    def close(self) -> None:
        for federation in self._federations.values():
            federation.close()
