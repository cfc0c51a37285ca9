"""What the pages show is run: code as it stands, commands shortened where named."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from operator import attrgetter
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import hre_torch
from hre_torch import Federation, HREOptimizer, errors
from hre_torch.app.recipes import DataSection, ModelSection, Recipe, TrainSection
from hre_torch.cli import app
from hre_torch.optim import GaussianNoise
from hre_torch.participant.aggregator import AGGREGATORS

ROOT = Path(__file__).parents[1]
README = "README.md"
RECIPES = "recipes/README.md"
BENCHMARKS = "benchmarks/README.md"
OPTIM = "hre_torch/optim/README.md"
PROTOCOL = "hre_torch/protocol/README.md"
SERVERS = "hre_torch/servers/README.md"

SHORT = (
    "-o data.train_size=1024 -o train.batch_size=64 "
    "-o train.epochs=2 -o train.pull_every=8 -o model.options.hidden=[16]"
)
"""Appended to what would train for minutes."""
SHORTENED = {
    "train recipes/digits_mlp.yaml": "-o train.epochs=2",
    "train recipes/digits_mlp.yaml -o": "-o profile=toy-insecure",
    "train recipes/mnist_mlp.yaml": f"{SHORT} -o profile=toy-insecure",
}
ELSEWHERE = {
    "pip install": "by .ci/run, in a fresh environment",
    "pytest": "by whoever reads this",
    "hre-torch train recipes/mnist_mlp.yaml --resume": "tests/test_cli.py, interrupted",
    "hre-torch keygen params": "tests/test_cli.py; a 3072-bit ceremony takes minutes",
    "python benchmarks/run.py": "tests/benchmarks/; presets take minutes",
}
"""Commands that no test here types, and who does or why nobody can."""


def section_of(page: str, section: str) -> str:
    """Return one section of a page, with its subsections."""
    return (ROOT / page).read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]


def blocks(page: str, section: str, language: str) -> list[str]:
    """Return the code blocks of one section of a page."""
    text = section_of(page, section)
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(page: str, section: str) -> list[str]:
    """Return the commands of a section, joined where they go on in the next line."""
    text = "\n".join(blocks(page, section, "bash")).replace("\\\n", " ")
    return [
        command.strip()
        for line in text.splitlines()
        for command in line.split("#")[0].split("&&")
        if command.strip()
    ]


def names_of_tests() -> set[str]:
    """Return the names of all tests, wherever they are."""
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }


def rows(text: str) -> list[list[str]]:
    """Return the cells of a text's tables, their heads left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in table[2:] if row]


def new_side(diff: str) -> str:
    """Return what a diff makes of a file."""
    kept = [line[1:] for line in diff.splitlines() if not line.startswith("-")]
    return "\n".join(kept)


def type_into(runner: CliRunner, command: str) -> None:
    """Run one `hre-torch` command, shortened if it is one of those that train."""
    words = shlex.split(command)
    assert words[0] == "hre-torch"
    for beginning, more in SHORTENED.items():
        if " ".join(words[1:]).startswith(beginning) and "--resume" not in words:
            words += shlex.split(more)
    result = runner.invoke(app, words[1:])
    assert result.exit_code == 0, result.output


@pytest.fixture
def runner(tmp_path, monkeypatch) -> CliRunner:
    """A command line in an empty folder beside the recipes."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def test_the_quick_start_trains(runner):
    for command in commands(README, "Quick start"):
        if not command.startswith(tuple(ELSEWHERE)):
            type_into(runner, command)


@pytest.mark.data
@pytest.mark.usefixtures("data_root")
@pytest.mark.parametrize(
    ("page", "section"), [(RECIPES, "Running one"), (BENCHMARKS, "Measured")]
)
def test_the_commands_of_a_section_work_one_after_another(runner, page, section):
    for command in commands(page, section):
        if not command.startswith(tuple(ELSEWHERE)):
            type_into(runner, command)


TYPED = [
    (README, "Quick start"),
    (RECIPES, "A first one"),
    (RECIPES, "Running one"),
    (BENCHMARKS, "Measured"),
]
"""Sections whose commands tests type."""


@pytest.mark.parametrize("page", [README, RECIPES, BENCHMARKS, OPTIM, PROTOCOL])
def test_every_other_command_has_a_reason(page):
    text = (ROOT / page).read_text()
    told = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    typed = {command for typed in TYPED for command in commands(*typed)}
    for command in told.replace("\\\n", " ").splitlines():
        for part in command.split("#")[0].split("&&"):
            known = part.strip() in typed or part.strip().startswith(tuple(ELSEWHERE))
            assert known or not part.strip(), f"nobody runs {part!r}"


PAGES = [
    ROOT / "README.md",
    *sorted(
        page
        for folder in ("recipes", "benchmarks", "hre_torch", "tests", ".github")
        for page in (ROOT / folder).rglob("*.md")
    ),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_page_names_exists(page):
    text = page.read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named <= names_of_tests()
    for path in re.findall(r"`(tests/[\w/.]*)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_picture_and_file_that_a_page_links_to_exists(page):
    links = re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", page.read_text())
    for is_picture, text, target in links:
        assert text, f"{target} has no text for who cannot see it"
        if is_picture or not target.startswith(("#", "https://")):
            assert (page.parent / target.split("#")[0]).is_file(), target


def test_each_of_the_25_pains_has_an_answer_and_a_test():
    pains = rows((ROOT / "tests" / "README.md").read_text())
    assert [row[0] for row in pains] == [str(number) for number in range(1, 26)]
    assert all("`test_" in row[3] for row in pains)


def test_every_error_that_the_troubleshooting_names_is_raised_by_that_name():
    named = [
        n
        for row in rows(section_of(SERVERS, "When something fails"))
        for n in row[0].split("`")[1::2]
    ]
    assert set(named) <= set(errors.__all__)
    assert len(named) == len(set(named))


def test_the_page_of_recipes_explains_every_key():
    text = (ROOT / "recipes" / "README.md").read_text()
    known = set(re.findall(r"`([\w.]+)`", text))
    sections = {"model": ModelSection, "data": DataSection, "train": TrainSection}
    for key in Recipe.model_fields:
        section = sections.get(key)
        names = [f"{key}.{name}" for name in section.model_fields] if section else [key]
        assert set(names) <= known


def test_the_commands_of_the_page_of_recipes_work(runner):
    for command in commands(RECIPES, "A first one"):
        type_into(runner, command)


class Net(torch.nn.Sequential):
    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(4, 2))


@pytest.mark.filterwarnings("ignore::hre_torch.errors.AloneWarning")
def test_the_one_line_swap_federates():
    (diff,) = blocks(README, "One line in an existing script", "diff")
    before, after = new_side(diff).split("# the training loop stays as it is")

    def train():
        script = {"torch": torch, "Net": Net}
        exec(before, script)
        for _ in range(3):
            script["model"](torch.ones(3, 4)).sum().backward()
            script["optimizer"].step()
        exec(after, script)
        assert script["optimizer"].session.version > 0

    state = hre_torch.simulate(train, participants=4, profile="toy-insecure")
    assert set(state) == {"0.weight", "0.bias"}


def test_the_weighted_average_trains():
    (code,) = blocks(OPTIM, "What a release does to the model", "python")
    model = Net()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    script = {"Federation": Federation, "HREOptimizer": HREOptimizer, "model": model}
    script |= {"inner": inner, "dataset": range(6000)}
    exec(code, script)
    before = model[0].weight.detach().clone()
    model(torch.ones(3, 4)).sum().backward()
    script["optimizer"].step()
    assert script["optimizer"].session.pending == 1
    assert not torch.equal(model[0].weight, before)
    script["federation"].close()


def test_noise_is_added_and_counted(capsys):
    (code,) = blocks(OPTIM, "Differential privacy", "python")
    model = Net()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    script = {"Federation": Federation, "HREOptimizer": HREOptimizer, "model": model}
    script |= {"inner": inner}
    assert "# ... train ..." in code
    exec(code.replace("# ... train ...", "optimizer.push()"), script)
    script["federation"].close()
    assert float(capsys.readouterr().out) == GaussianNoise(4.0).epsilon(1, 1e-5)
    page = (ROOT / OPTIM).read_text()
    for releases in (1, 100):
        assert f"{GaussianNoise(4.0).epsilon(releases, 1e-5):.1f} after" in page


# What Opacus and torch's hooks remark on each other is no matter of ours.
@pytest.mark.filterwarnings("ignore")
def test_the_optimizer_of_opacus_is_wrapped():
    opacus = pytest.importorskip("opacus")
    (diff,) = blocks(OPTIM, "Differential privacy", "diff")
    data = TensorDataset(torch.ones(64, 4), torch.zeros(64, 2))
    script = {"torch": torch, "PrivacyEngine": opacus.PrivacyEngine, "model": Net()}
    script |= {"Federation": Federation, "HREOptimizer": HREOptimizer}
    script |= {"loader": DataLoader(data, batch_size=16)}
    exec(new_side(diff), script)
    model, optimizer = script["model"], script["optimizer"]
    for images, labels in script["loader"]:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(images), labels).backward()
        optimizer.step()
    assert optimizer.session.statistics.pushes > 0
    script["federation"].close()


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def training_step(self, batch, index):
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


# What Lightning says about the few batches and workers of a test is no mistake here.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*")
def test_the_lightning_callback_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    diff = blocks(README, "Lightning", "diff")[0]
    module = Module()
    before = module.net[0].weight.detach().clone()
    script = {
        "lightning": lightning,
        "module": module,
        "loader": DataLoader(TensorDataset(torch.ones(32, 4)), batch_size=4),
    }
    exec(new_side(diff), script)
    assert not torch.equal(module.net[0].weight, before)
    script["federation"].close()


def test_the_plugged_in_aggregator_carries_uploads():
    (code,) = blocks(PROTOCOL, "Plugging in", "python")
    with Federation.local(Net(), participants=3, profile="toy-insecure") as federation:
        script = {"federation": federation}
        exec(code, script)
        assert AGGREGATORS.get("counting") is script["CountingAggregator"]
        assert script["session"].name == "p0"


def test_every_stop_of_the_walk_exists():
    stops = rows(section_of(PROTOCOL, "The walk of an update"))
    assert len(stops) > 10
    for _, where in stops:
        path, name = where.strip("`").split("::")
        module = importlib.import_module("hre_torch." + path[:-3].replace("/", "."))
        assert callable(attrgetter(name)(module))


def test_the_page_of_the_house_has_every_room():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    page = (ROOT / "hre_torch" / "README.md").read_text()
    for room in table["tool"]["hre-torch"]["rooms"]:
        top = room.split("/")[0]
        assert f"`{top}/`" in page or f"`{top}.py`" in page, room
