"""Whole scripts, written as other people write theirs, with the lines of the README.

Each is run as it is, and with those lines as the only participant of a federation: then
loss and accuracy differ by what rounding to 2^-16 does, and no more. MNIST's script is
run by four participants, too (slow), and one by two processes of one participant.
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from hre_torch import Federation
from hre_torch.app.run.surroundings import Surroundings, surrounded

SCRIPTS = Path(__file__).parent / "scripts"
IMPORTS = "import hre_torch\nfrom hre_torch import HRECallback, HREOptimizer\n"
WRAP = "optimizer = HREOptimizer(optimizer, hre_torch.join(model))\n"
# What wraps our optimizer has no `finish`, or writes it down elsewhere.
WRAP_FIRST = "optimizer = federated = HREOptimizer(optimizer, hre_torch.join(model))\n"


@dataclass(frozen=True)
class Script:
    """A script, what is changed in it, and how close its results stay.

    Attributes:
        name: of the file.
        changes: lines, each with what takes its place.
        end: the last line of `main`.
        arguments: of the command.
        suite: of the lone participant.
        needs: a package that not everybody has.
        loss: tolerance of the last loss, relative.
        accuracy: of the last accuracy.
        dear: whether it takes ten seconds, if only for what it imports.
    """

    name: str
    changes: tuple[tuple[str, str], ...]
    end: str = "optimizer.finish()"
    arguments: tuple[str, ...] = ()
    suite: str = "plain"
    needs: str = "torch"
    loss: float = 0.02
    accuracy: float = 0.01
    dear: bool = False

    @property
    def written(self) -> Path:
        return SCRIPTS / self.name

    def changed(self, folder: Path) -> Path:
        """Write the script with its lines changed; return where."""
        source = self.written.read_text()
        for old, new in self.changes:
            assert source.count(old) == 1, f"{self.name}: {old}"
            source = source.replace(old, new)
        end = '\n\nif __name__ == "__main__":\n'
        assert source.count(end) == 1
        path = folder / self.name
        path.write_text(IMPORTS + source.replace(end, f"    {self.end}\n{end}"))
        return path


def before(line: str, *inserted: str) -> tuple[str, str]:
    """Insert lines before one, at its depth."""
    depth = line[: len(line) - len(line.lstrip())]
    return f"\n{line}", "\n" + "".join(depth + each for each in inserted) + line


MNIST = Script(
    "mnist_main.py",
    (before("    scheduler = StepLR(", WRAP),),
    arguments=("--epochs", "1", "--limit", "800"),
    # Twelve steps at a learning rate of 1 make much of small differences.
    loss=0.1,
    accuracy=0.05,
    dear=True,
)
IMAGENET = Script(
    "imagenet_resume.py",
    (
        before(
            "    scheduler = StepLR(",
            "path = args.folder / 'federation'\n",
            "federation = (hre_torch.Federation.load(path) if args.resume else\n",
            "    hre_torch.Federation.local(model, participants=1, suite='plain'))\n",
            "optimizer = HREOptimizer(optimizer, federation.join('p0'))\n",
        ),
        before("        save_checkpoint(\n", "federation.save(path)\n"),
    ),
    loss=0.1,
    accuracy=0.03,
)
TRAINER = Script(
    "trainer_bert.py",
    (
        before(
            "        trainer.train()\n",
            "from hre_torch.integrations.transformers import federate\n",
            "federate(trainer, hre_torch.join(model))\n",
        ),
    ),
    end="pass",
    needs="transformers",
    dear=True,
)
LIGHTNING = Script(
    "lightning_cli.py",
    (('"callbacks": [],', '"callbacks": [HRECallback(hre_torch.join)],'),),
    end="pass",
    arguments=("fit",),
    needs="jsonargparse",
    dear=True,
)
GAN = Script(
    "gan.py",
    (
        before(
            "    for epoch in range(args.epochs):\n",
            "optimizer_g = HREOptimizer(\n",
            "    optimizer_g, hre_torch.join(net_g, 'generator'))\n",
            "optimizer_d = HREOptimizer(\n",
            "    optimizer_d, hre_torch.join(net_d, 'critic'))\n",
        ),
    ),
    end="optimizer_g.finish(), optimizer_d.finish()",
)
PLAIN_LOOPS = [
    MNIST,
    Script(
        "lbfgs_closure.py",
        (before("    for step in range(8):\n", WRAP),),
        suite="paper",
        loss=0.25,
    ),
    Script(
        "amp_fused_adam.py",
        (before("    scaler = torch", WRAP.replace("(model)", "(net)")),),
        suite="paper",
    ),
    Script(
        "onecycle.py", (before("    scheduler = OneCycleLR(", WRAP),), suite="paper"
    ),
    Script(
        "timm_layer_decay.py",
        (before("    scheduler = CosineLRScheduler(", WRAP),),
        needs="timm",
        dear=True,
    ),
    Script(
        "peft_lora.py",
        (before("    steps = len(train_loader)", WRAP),),
        needs="peft",
        dear=True,
    ),
    Script(
        "accelerate_loop.py",
        (before("    scheduler = torch", WRAP_FIRST),),
        end="federated.finish()",
        needs="accelerate",
    ),
    Script(
        "fabric_loop.py",
        (before("    model, optimizer = fabric.setup(", WRAP_FIRST),),
        end="federated.finish()",
    ),
]
DDP = Script(
    "ddp_main.py",
    (
        before(
            "    scheduler = torch",
            "session = None\n",
            "if rank == 0:\n",
            "    federation = hre_torch.Federation.local(\n",
            "        model, participants=1, suite='plain', profile='toy-insecure')\n",
            "    session = federation.join()\n",
            "optimizer = HREOptimizer(optimizer, session)\n",
        ),
        before("    dist.barrier()\n", "optimizer.finish()\n"),
    ),
    end="rank == 0 and print('version', session.version)",
)
ALL = [*PLAIN_LOOPS, TRAINER, LIGHTNING, GAN, IMAGENET]

pytestmark = [
    # What these libraries remark on is no matter of ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning.*"),
]


def each(scripts):
    return pytest.mark.parametrize(
        "script",
        [
            pytest.param(
                script,
                id=script.name,
                marks=[
                    pytest.mark.skipif(
                        find_spec(script.needs) is None,
                        reason=f"{script.needs} is not installed",
                    ),
                    *([pytest.mark.gate] if script.dear else []),
                ],
            )
            for script in scripts
        ],
    )


def figures(output: str) -> tuple[float, float]:
    """Return the last loss and accuracy that were printed."""
    losses = re.findall(r"loss\W+([\d.]+)", output, re.I)
    hits = re.findall(r"accuracy\W+([\d.]+)", output, re.I)
    return float(losses[-1]), float(hits[-1]) if hits else 0.0


@pytest.fixture
def run(monkeypatch, capfd) -> Callable[..., tuple[float, float]]:
    """Run a script as `python script.py` does; return the last loss and accuracy."""

    def run_script(path: Path, *arguments: str) -> tuple[float, float]:
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        runpy.run_path(str(path), run_name="__main__")
        return figures(capfd.readouterr().out)

    return run_script


@each([script for script in ALL if script is not IMAGENET])
def test_a_lone_participant_learns_what_the_script_learns(run, tmp_path, script):
    sessions = []

    def join(module, task, options):
        together = Federation.local(
            module, participants=1, suite=script.suite, profile="toy-insecure"
        )
        sessions.append(together.join(module=module))
        return sessions[-1]

    loss, accuracy = run(script.written, *script.arguments)
    with surrounded(Surroundings(number=0, count=1, join=join)):
        federated = run(script.changed(tmp_path), *script.arguments)
    assert federated[0] == pytest.approx(loss, rel=script.loss)
    assert federated[1] == pytest.approx(accuracy, abs=script.accuracy)
    assert len(sessions) == (2 if script is GAN else 1)
    for session in sessions:
        assert session.version == session.statistics.pushes >= 8
        assert session.pending == 0


def test_the_imagenet_example_resumes_where_it_stopped(run, tmp_path):
    folders = [tmp_path / name for name in ("plain", "whole", "stopped")]
    for folder in folders:
        folder.mkdir()
    plain, whole, stopped = map(str, folders)
    federated = IMAGENET.changed(tmp_path)
    loss, accuracy = run(IMAGENET.written, plain)
    through = run(federated, whole)
    assert through[0] == pytest.approx(loss, rel=IMAGENET.loss)
    assert through[1] == pytest.approx(accuracy, abs=IMAGENET.accuracy)

    run(federated, stopped, "--epochs", "2")
    checkpoint = f"{stopped}/checkpoint.pth.tar"
    assert run(federated, stopped, "--resume", checkpoint) == through


@pytest.mark.gate
def test_two_processes_of_one_participant_learn_what_they_learn_alone(tmp_path):
    def run(path: Path) -> str:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return subprocess.run(
            [*start, "--nproc-per-node", "2", str(path)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    plain, federated = run(DDP.written), run(DDP.changed(tmp_path))
    loss, accuracy = figures(plain)
    assert figures(federated)[0] == pytest.approx(loss, rel=0.02)
    assert figures(federated)[1] == pytest.approx(accuracy, abs=0.01)
    assert accuracy > 0.85
    steps = 4 * 25  # Half of 1,500 digits in batches of 30, four times.
    assert f"version {steps}\n" in federated


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.data
def test_four_participants_learn_mnist_about_as_one_who_has_all_images(
    run, tmp_path, data_root
):
    """Prints the figures of `benchmarks/results/run.md`; about half an hour."""
    arguments = ["--data", str(data_root), "--epochs", "3", "--log-interval", "1000"]
    _, alone = run(MNIST.written, *arguments)
    shared = replace(
        MNIST,
        changes=(
            *MNIST.changes,
            before(
                "    train_loader = DataLoader(",
                "train_set = hre_torch.share(train_set)\n",
            ),
        ),
        end="optimizer.finish()\n    with optimizer.released():\n"
        "        test(model, device, test_loader)",
    )
    code = "from hre_torch.cli import main; main()"
    command = [sys.executable, "-c", code, "run", "--participants", "4"]
    done = subprocess.run(
        [*command, str(shared.changed(tmp_path)), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    together = [
        figures("\n".join(line for line in done.stdout.splitlines() if who in line))[1]
        for who in ("p0 ", "p1 ", "p2 ", "p3 ")
    ]
    print(
        f"alone {alone:.2%}, released weights "
        + ", ".join(map("{:.2%}".format, together))
    )
    assert min(together) >= alone - 0.005
