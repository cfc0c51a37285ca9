"""The weight of a single upload is as safe as the upload that carries it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.attacks import scene
from benchmarks.attacks.catalogue import play, select
from benchmarks.attacks.scene import Scene
from hre_torch.protocol.task_options import TaskOptions

PLAYED = [
    pytest.param(attack, target, id=f"{attack.name}-{target.suite}")
    for attack, target in select("all")
    if attack.name in ("A1", "A6")
]


@pytest.fixture
def weighted_scenes(monkeypatch):
    """Let every update of a scene have a random weight behind its values."""
    draw = Scene.draw

    def numbers(*, combine, **others):
        return TaskOptions(combine="weighted", max_samples=100, **others)

    def with_weight(self):
        weight = self._generator.integers(1, 101)
        return np.append(draw(self) * weight // 101, weight).astype(np.int32)

    monkeypatch.setattr(scene, "TaskOptions", numbers)
    monkeypatch.setattr(Scene, "draw", with_weight)


@pytest.mark.usefixtures("weighted_scenes")
@pytest.mark.parametrize(("attack", "target"), PLAYED)
def test_an_attack_on_a_weighted_upload_does_what_it_does_on_any_other(attack, target):
    assert play(attack, target, seed=1, profile="toy-insecure").as_expected
