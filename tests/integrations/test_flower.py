"""Flower as control plane: what it sends, what it lets through, when it stops."""

from __future__ import annotations

import builtins

import numpy as np
import pytest

from hre_torch.errors import (
    AggregatorError,
    ConfigurationError,
    MessageError,
    MissingExtraError,
)
from hre_torch.integrations.flower import (
    Launch,
    Turn,
    launch_sessions,
    reply_with,
    turn_of,
)

HASTY = {"patience": 0.05, "pause": 0.01, "poll": 0.001}
PATIENT = HASTY | {"patience": 60.0}
GONE, RAISED = 5, 2


@pytest.fixture
def flwr(monkeypatch):
    """flwr's message classes, in a process that Flower seems to have started."""
    app = pytest.importorskip("flwr.app", reason="needs the extra `flower`")
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    return app


class ToyGrid:
    """Flower's grid, with SuperNodes that do what their script says.

    A script is a list with one entry per session: metrics, an error code, None for a
    message that Flower does not take, or records of somebody else's reply. `comes` says
    at which look a node appears.
    """

    def __init__(self, flwr, scripts, comes=()):
        self._flwr = flwr
        self._scripts = scripts
        self._comes = dict(comes)
        self._looks = 0
        self._replies = {}
        self.pushed = []

    def get_node_ids(self):
        self._looks += 1
        return [n for n in self._scripts if self._comes.get(n, 0) <= self._looks]

    def push_messages(self, messages):
        return [self._push(message) for message in messages]

    def _push(self, message):
        node = message.metadata.dst_node_id
        outcome = self._scripts[node].pop(0)
        self.pushed.append(message)
        if outcome is None:
            return None
        number = f"message {len(self.pushed)}"
        message.metadata.__dict__["_message_id"] = number
        if isinstance(outcome, int):
            error = self._flwr.Error(outcome, "so it is")
            self._replies[number] = self._flwr.Message(error, reply_to=message)
        elif isinstance(outcome, self._flwr.RecordDict):
            self._replies[number] = self._flwr.Message(outcome, reply_to=message)
        else:
            self._replies[number] = reply_with(message, outcome)
        return number

    def pull_messages(self, numbers):
        return [self._replies.pop(n) for n in numbers if n in self._replies]


@pytest.mark.flower
def test_every_supernode_gets_one_message_that_holds_two_integers(flwr):
    grid = ToyGrid(flwr, {7: [{"accuracy": 0.5}], 8: [{"accuracy": 1.0}]})
    told = []
    launch = Launch(participants=2, **PATIENT)
    ends = launch_sessions(grid, launch, told.append, Turn(1, 3))
    assert [(end.node, end.metrics) for end in ends] == [
        (7, {"accuracy": 0.5}),
        (8, {"accuracy": 1.0}),
    ]
    for message in grid.pushed:
        assert message.metadata.message_type == "train.session"
        assert turn_of(message) == Turn(1, 3)
        records = message.content
        assert list(records) == ["session"]
        assert dict(records["session"]) == {"turn": 1, "turns": 3}
    assert [record["event"] for record in told] == ["session start"] * 2 + [
        "session end"
    ] * 2


@pytest.mark.flower
@pytest.mark.parametrize("outcome", [GONE, None])
def test_a_supernode_that_drops_is_asked_again_however_often(flwr, outcome):
    grid = ToyGrid(flwr, {7: [outcome] * 5 + [{"accuracy": 1}], 8: [{"accuracy": 1}]})
    launch = Launch(participants=2, attempts=1, **PATIENT)
    assert len(launch_sessions(grid, launch, lambda record: None)) == 2
    assert len(grid.pushed) == 7


@pytest.mark.flower
def test_a_supernode_that_comes_late_is_started_too(flwr):
    grid = ToyGrid(flwr, {7: [{"accuracy": 1}], 8: [{"accuracy": 1}]}, {8: 9})
    ends = launch_sessions(grid, Launch(participants=2, **PATIENT), lambda record: None)
    assert [end.node for end in ends] == [7, 8]


@pytest.mark.flower
def test_a_supernode_that_fails_is_given_up_and_the_others_count(flwr):
    grid = ToyGrid(flwr, {7: [RAISED] * 9, 8: [{"accuracy": 1}]})
    launch = Launch(participants=2, attempts=2, **HASTY)
    ends = launch_sessions(grid, launch, lambda record: None)
    assert [end.node for end in ends] == [8]
    assert len(grid.pushed) == 3


@pytest.mark.flower
@pytest.mark.parametrize("named", ["session", "other"])
def test_a_reply_of_something_else_counts_as_a_failure(flwr, named):
    strange = flwr.RecordDict({named: flwr.ConfigRecord({"accuracy": "high"})})
    grid = ToyGrid(flwr, {7: [strange] * 9, 8: [{"accuracy": 1}]})
    told = []
    ends = launch_sessions(
        grid, Launch(participants=2, attempts=2, **HASTY), told.append
    )
    assert [end.node for end in ends] == [8]
    failed = [record for record in told if record["event"] == "session failed"]
    assert [record["reason"] for record in failed] == ["no reply of reply_with"] * 2


@pytest.mark.flower
@pytest.mark.parametrize(
    ("scripts", "seen"), [({}, "no SuperNode"), ({7: [RAISED]}, "so it is")]
)
def test_a_run_in_which_nobody_trained_fails_and_says_why(flwr, scripts, seen):
    launch = Launch(participants=1, attempts=1, **HASTY)
    with pytest.raises(AggregatorError, match=seen):
        launch_sessions(ToyGrid(flwr, scripts), launch, lambda record: None)


@pytest.mark.flower
@pytest.mark.parametrize(
    "value",
    [[0.1, 0.2], np.zeros(3), np.float64(1), b"key", "text", float("nan"), True],
    ids=str,
)
def test_nothing_but_finite_numbers_goes_into_a_reply(flwr, value):
    message = flwr.Message(flwr.RecordDict({}), 7, "train.session")
    with pytest.raises(MessageError, match="not a finite number"):
        reply_with(message, {"accuracy": value})


@pytest.mark.flower
def test_a_message_of_somebody_else_is_refused(flwr):
    message = flwr.Message(flwr.RecordDict({}), 7, "train.session")
    with pytest.raises(MessageError, match=r"no train\.session message"):
        turn_of(message)


def test_without_flower_the_error_names_the_extra(monkeypatch):
    def blocked(name, *rest):
        if name.split(".")[0] == "flwr":
            raise ImportError(name)
        return real(name, *rest)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(MissingExtraError, match=r"hre-torch\[flower\]"):
        reply_with(None, {"accuracy": 1.0})


@pytest.mark.parametrize(("number", "of"), [(-1, 2), (2, 2), (0, 0)])
def test_turns_count_from_zero(number, of):
    with pytest.raises(ConfigurationError, match="there is no turn"):
        Turn(number, of)


def test_a_launch_expects_somebody():
    with pytest.raises(ConfigurationError, match="at least 1"):
        Launch(participants=0)
