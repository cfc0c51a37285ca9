"""Whatever is changed in a finished run, the audit names file and difference."""

from __future__ import annotations

import re

import pytest

from hre_torch.app.audit import audit
from hre_torch.app.training.tensorboard import tensorboard_is_installed
from tests.app.audit.tamperings import TAMPERINGS, sign_again


def play(tampering, scene):
    """Change the run and return the report on it."""
    tampering.change(scene)
    if tampering.by == "signer":
        sign_again(scene)
    return audit(scene.run, scene.operator.public)


@pytest.mark.parametrize(
    "tampering", TAMPERINGS, ids=lambda t: f"{t.by}: {t.name}".replace(" ", "-")
)
def test_a_changed_run_is_never_verified_and_the_audit_says_what_differs(
    tampering, scene
):
    if "TensorBoard" in tampering.name and not tensorboard_is_installed():
        pytest.skip("the extra `tensorboard` is not installed")
    report = play(tampering, scene)
    assert report.findings or not report.finished
    said = report.findings + ([] if report.finished else report.notes)
    assert any(re.match(tampering.message, line) for line in said), said


def test_a_run_that_nobody_touched_is_verified(finished):
    report = audit(finished.run, finished.operator.public)
    assert (report.findings, report.notes) == ([], [])
    assert report.finished
    assert report.operator == finished.operator.public
