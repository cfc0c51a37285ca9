"""Flower as control plane: it starts sessions on many machines and collects numbers.

No update, weight or key ever travels through Flower. Its ServerApp pushes one
`train.session` message to every SuperNode; there a ClientApp opens a session against
our own servers, trains for as long as it takes, and replies with plain numbers. Both
directions are narrow on purpose: `launch_sessions` sends two integers, and `reply_with`
takes finite numbers only, so that an array cannot slip in.

A ServerApp runs code of whoever submitted the run, so it must not hold secrets: DSP and
KTS are services of their own (`hre-torch serve`), which Flower neither starts nor sees.

This is the only file that imports flwr.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hre_torch.errors import (
    AggregatorError,
    ConfigurationError,
    MessageError,
    MissingExtraError,
)

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

__all__ = [
    "SESSION",
    "Launch",
    "SessionEnd",
    "Turn",
    "launch_sessions",
    "reply_with",
    "turn_of",
]

SESSION: Final = "train.session"
"""Message type: Flower routes it to the ClientApp's `@app.train("session")`."""

_RECORD: Final = "session"
_NODE_UNAVAILABLE: Final = 5
"""flwr's error code for a SuperNode that sent no heartbeat for about a minute."""
_NO_METRICS: Final = -1
"""Our own code, where a ClientApp replied with something else; flwr's are from 0 on."""

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Turn:
    """Which part of its training a session makes.

    Attributes:
        number: of this part, from 0.
        of: how many parts there are; 1 is one long-lived session.
    """

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise ConfigurationError(
                f"there is no turn {self.number} of {self.of}; turns count from 0 and "
                "there is at least one"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a ServerApp starts sessions and when it stops waiting.

    Attributes:
        participants: how many sessions have to end; the number in the roster.
        patience: seconds to wait, when no session is open, for SuperNodes to come (or
            to come back).
        attempts: sessions that a SuperNode may fail before it is given up. One that
            dropped has not failed: it is asked again whenever it returns.
        pause: seconds between a failure and the next attempt.
        ttl: seconds after which Flower forgets a message; longer than training takes.
        poll: seconds between two looks at Flower.
    """

    participants: int
    patience: float = 120.0
    attempts: int = 3
    pause: float = 5.0
    ttl: float = 7 * 24 * 3600.0
    poll: float = 1.0

    def __post_init__(self) -> None:
        if self.participants < 1 or self.attempts < 1:
            raise ConfigurationError(
                f"participants is {self.participants} and attempts {self.attempts}; "
                "both must be at least 1"
            )


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """A session that has ended well.

    Attributes:
        node: Flower's number of the SuperNode; another one after a restart.
        metrics: what the ClientApp replied.
    """

    node: int
    metrics: dict[str, int | float]


def launch_sessions(
    grid: Grid, launch: Launch, report: Report, turn: Turn | None = None
) -> list[SessionEnd]:
    """Start a session on every SuperNode and wait until all have ended.

    A SuperNode that comes late, or comes back after it dropped, is started too. The
    others do not wait for it: updates flow past Flower.

    Args:
        grid: Flower's.
        launch: how many to expect, how long to wait.
        report: told of every session's start and end as a record.
        turn: which part of the training; all of it by default.

    Returns:
        The sessions that ended well; fewer than `launch.participants` where SuperNodes
        stayed away.

    Raises:
        AggregatorError: no session ended well.
    """
    round_ = _Round(grid, launch, report, turn or Turn())
    while not round_.is_over():
        round_.collect()
        round_.start()
        time.sleep(launch.poll)
    if not round_.ended:
        raise AggregatorError(
            f"no session ended well within {launch.patience:g} s; last seen: "
            f"{round_.last_error or 'no SuperNode at all'}. Start SuperNodes, and look "
            "at their logs"
        )
    return round_.ended


def turn_of(message: Message) -> Turn:
    """Return which part of the training a `train.session` message asks for.

    Raises:
        MessageError: the message is another one.
    """
    try:
        record = message.content[_RECORD]
        return Turn(int(record["turn"]), int(record["turns"]))
    except (KeyError, TypeError, ValueError) as error:
        raise MessageError(
            f"this is no {SESSION} message of launch_sessions ({error!r}); use it in "
            "the ServerApp"
        ) from error


def reply_with(message: Message, metrics: Mapping[str, int | float]) -> Message:
    """Return the reply to a `train.session` message: numbers and nothing else.

    Args:
        message: what is answered.
        metrics: name to a finite number.

    Raises:
        MessageError: something else than a number was given; an array or octets may be
            weights, which Flower must not see.
    """
    for name, value in metrics.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise MessageError(
                f"metric {name!r} is a {type(value).__name__}, not a finite number; "
                "nothing else goes through Flower"
            )
    flwr = _flwr()
    records = flwr.RecordDict({_RECORD: flwr.MetricRecord(dict(metrics))})
    reply: Message = flwr.Message(records, reply_to=message)
    return reply


class _Round:
    """What is known of the sessions of one turn."""

    def __init__(self, grid: Grid, launch: Launch, report: Report, turn: Turn) -> None:
        self._grid = grid
        self._launch = launch
        self._report = report
        self._turn = turn
        self._open: dict[str, int] = {}
        self._failures: dict[int, int] = {}
        self._not_before: dict[int, float] = {}
        self._idle_since = time.monotonic()
        self.ended: list[SessionEnd] = []
        self.last_error = ""

    def is_over(self) -> bool:
        """Whether all have ended, or nobody is left to wait for."""
        if len(self.ended) >= self._launch.participants:
            return True
        idle = time.monotonic() - self._idle_since
        return not self._open and idle > self._launch.patience

    def collect(self) -> None:
        """Take in the replies that have come."""
        if not self._open:
            return
        for reply in self._grid.pull_messages(list(self._open)):
            node = self._open.pop(reply.metadata.reply_to_message_id)
            self._idle_since = time.monotonic()
            if reply.has_error():
                self._note_failure(node, reply.error.code, reply.error.reason or "")
                continue
            metrics = _metrics_of(reply)
            if metrics is None:
                self._note_failure(node, _NO_METRICS, "no reply of reply_with")
                continue
            end = SessionEnd(node, metrics)
            self.ended.append(end)
            self._tell("session end", node, **end.metrics)

    def start(self) -> None:
        """Push a message to every SuperNode that is there and has nothing to do."""
        busy = {*self._open.values(), *(end.node for end in self.ended)}
        now = time.monotonic()
        for node in self._grid.get_node_ids():
            if node in busy or self._not_before.get(node, now) > now:
                continue
            if self._failures.get(node, 0) >= self._launch.attempts:
                continue
            for number in self._grid.push_messages([self._message(node)]):
                # Flower returns None for a message that it did not take.
                if number is None:
                    self._note_failure(node, _NODE_UNAVAILABLE, "message not taken")
                    continue
                self._open[number] = node
                self._tell("session start", node)

    def _message(self, node: int) -> Message:
        flwr = _flwr()
        record = flwr.ConfigRecord({"turn": self._turn.number, "turns": self._turn.of})
        message: Message = flwr.Message(
            flwr.RecordDict({_RECORD: record}), node, SESSION, ttl=self._launch.ttl
        )
        return message

    def _note_failure(self, node: int, code: int, reason: str) -> None:
        self.last_error = f"SuperNode {node}, code {code}: {reason}"
        self._not_before[node] = time.monotonic() + self._launch.pause
        if code == _NODE_UNAVAILABLE:
            self._tell("session dropped", node, code=code, reason=reason)
            return
        self._failures[node] = self._failures.get(node, 0) + 1
        self._tell("session failed", node, code=code, reason=reason)

    def _tell(self, event: str, node: int, **more: Any) -> None:
        turn = {"turn": self._turn.number, "turns": self._turn.of}
        self._report({"event": event, "node": node, **turn, **more})


def _metrics_of(reply: Message) -> dict[str, int | float] | None:
    """Return what `reply_with` wrote into a reply; None if something else did."""
    record = reply.content.get(_RECORD)
    if not isinstance(record, _flwr().MetricRecord):
        return None
    return dict(record)


def _flwr() -> Any:
    """Return flwr's message classes, imported when they are first needed."""
    try:
        import flwr.app
    except ImportError as error:
        raise MissingExtraError(
            "Flower is not installed; `pip install 'hre-torch[flower]'`"
        ) from error
    return flwr.app
