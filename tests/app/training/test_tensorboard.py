"""TensorBoard gets scalars; where it is not installed, its extra is named."""

from __future__ import annotations

import sys

import pytest

from hre_torch.app.training.tensorboard import (
    TensorBoardWriter,
    tensorboard_is_installed,
)
from hre_torch.errors import MissingExtraError


def test_a_missing_tensorboard_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"hre-torch\[tensorboard\]"):
        TensorBoardWriter(tmp_path)


@pytest.fixture
def written(tmp_path):
    """Write records and return tag to steps as TensorBoard reads them."""
    if not tensorboard_is_installed():
        pytest.skip("the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def write(records):
        with TensorBoardWriter(tmp_path) as writer:
            for record in records:
                writer.update(record)
        events = EventAccumulator(str(tmp_path)).Reload()
        return {
            tag: [event.step for event in events.Tensors(tag)]
            for tag in events.Tags()["tensors"]
        }

    return write


def push(step, seconds, loss=0.5):
    return {
        "event": "push",
        "participant": "p0",
        "global_step": step,
        "seconds": seconds,
        "loss": loss,
        "update_norm": 1.5,
        "staleness": 0,
        "pending": 1,
        "bytes_up": 10,
        "bytes_down": 20,
    }


def test_evaluations_and_losses_become_scalars(written):
    evaluation = {"event": "evaluation", "global_step": 9, "accuracy": 0.9, "loss": 1.0}
    tags = written([push(4, 0.1), evaluation])
    assert tags["test/accuracy"] == [9]
    assert tags["loss/p0"] == tags["update_norm/p0"] == [4]


def test_a_participants_curve_has_few_points_per_second(written):
    tags = written([push(step, 0.1 * step) for step in range(20)])
    assert 2 <= len(tags["loss/p0"]) <= 5


def test_a_push_without_a_loss_is_no_point(written):
    assert "loss/p0" not in written([push(1, 0.0, loss=None)])


def test_phases_are_told_apart_by_party(written):
    tags = written(
        [
            {"event": "phases", "global_step": 1, "phases": {"add": 1.0}},
            {
                "event": "phases",
                "global_step": 1,
                "participant": "p0",
                "phases": {"open": 2.0},
            },
        ]
    )
    assert set(tags) == {"ms_add/servers", "ms_open/p0"}


def test_other_events_are_passed_over(written):
    assert written([{"event": "release", "global_step": 1}]) == {}
