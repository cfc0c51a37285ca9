"""Four scripts shaped like other people's become federated by changing one line."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from hre_torch import Federation, HREOptimizer

SCRIPTS = Path(__file__).parent / "scripts"

# Script, the expression that makes its optimizer, and what it calls its model.
CASES = [
    ("mnist_loop.py", "optim.Adadelta(model.parameters(), lr=args.lr)", "model"),
    (
        "lbfgs_closure.py",
        "torch.optim.LBFGS(model.parameters(), lr=0.8, max_iter=10)",
        "model",
    ),
    (
        "amp_fused_adam.py",
        "torch.optim.Adam(net.parameters(), lr=3e-3, fused=True)",
        "net",
    ),
    (
        "onecycle.py",
        "torch.optim.SGD(groups, lr=max_lr, momentum=0.9, nesterov=True)",
        "model",
    ),
]


def swapped(source: str, expression: str, model: str) -> str:
    """Return the script with its one line changed."""
    before = f"    optimizer = {expression}\n"
    assert source.count(before) == 1
    after = f"    optimizer = HREOptimizer({expression}, join({model}))\n"
    return source.replace(before, after)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script as `python script.py` does, and return the losses it prints."""

    def run_script(path: Path, **names: object) -> list[float]:
        monkeypatch.setattr(sys, "argv", [str(path)])
        runpy.run_path(str(path), init_globals=names, run_name="__main__")
        printed = re.findall(r"loss\W+([\d.]+)", capsys.readouterr().out, re.I)
        return [float(loss) for loss in printed]

    return run_script


@pytest.mark.parametrize(
    ("name", "expression", "model"), CASES, ids=[case[0] for case in CASES]
)
def test_the_script_trains_encrypted_with_one_line_changed(
    run, tmp_path, name, expression, model
):
    script = tmp_path / name
    script.write_text(swapped((SCRIPTS / name).read_text(), expression, model))
    sessions = []

    def join(module):
        together = Federation.local(
            module, participants=1, suite="paper", profile="toy-insecure"
        )
        sessions.append(together.join())
        return sessions[0]

    written = run(SCRIPTS / name)
    assert written[-1] < written[0] / 2
    losses = run(script, HREOptimizer=HREOptimizer, join=join)
    assert losses[-1] < losses[0] / 2
    assert losses[-1] == pytest.approx(written[-1], rel=0.25)
    assert sessions[0].statistics.pushes >= 8
    assert sessions[0].version == sessions[0].statistics.pushes
