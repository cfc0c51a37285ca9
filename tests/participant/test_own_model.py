"""`roster sign --model`: a task for a network of one's own, without any recipe."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import hre_torch
from hre_torch.app.models import build_model
from hre_torch.cli import app
from hre_torch.crypto.keys import key_files
from hre_torch.errors import TaskError
from hre_torch.optim.proposal import model_of
from hre_torch.setup.roster_file import read_roster
from tests.sites import furnish

PAGE = Path(hre_torch.__file__).parents[1] / "recipes" / "README.md"

MODULE = """
import torch

def network():
    torch.manual_seed(3)
    return torch.nn.Linear(5, 2)

def number():
    return 7

def broken():
    raise ValueError("no weights here")

SIZE = 3
"""


@pytest.fixture
def module(monkeypatch, tmp_path):
    """A folder with a module of the user's, in which commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(key_files, "_SCRYPT_N", 2)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "ours.py").write_text(MODULE)
    (tmp_path / "spoiled.py").write_text("import nothing_of_that_name\n")
    yield tmp_path
    sys.modules.pop("ours", None)


@pytest.fixture
def sign(module):
    """Sign a roster of three with some words; return what the command did."""
    furnish(module, "plain", ("a", "b", "c"), profile="toy-insecure")

    def run(*words):
        command = ["roster", "sign", "roster.json", "--key", "operator.key"]
        command += ["--initial", "first.npy", "--passphrase-file", "passphrase", *words]
        return CliRunner().invoke(app, command)

    return run


def test_a_model_of_ones_own_becomes_a_task_that_starts_from_its_weights(sign):
    done = sign("--model", "ours:network", "-o", "clip=0.5", "-o", "fraction_bits=12")
    assert done.exit_code == 0, done.output
    task = read_roster(Path("roster.json")).task
    assert (task.n_params, task.clip, task.fraction_bits) == (12, 0.5, 12)
    assert task.names == ("weight", "bias")
    import ours

    flat = torch.nn.utils.parameters_to_vector(ours.network().parameters())
    expected = np.rint(flat.detach().double().numpy() * 2**12)
    assert (np.load("first.npy") == expected).all()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "ours"], "package.module:function"),
        (["--model", "ours:nobody"], "no function 'nobody'"),
        (["--model", "ours:SIZE"], "no function 'SIZE'"),
        (["--model", "ours:number"], "returned int, not a torch.nn.Module"),
        (["--model", "ours:broken"], "ValueError: no weights here"),
        (["--model", "spoiled:network"], "nothing_of_that_name"),
        (["--model", "ours:network", "-o", "epochs=3"], "no option 'epochs'"),
        (["--model", "ours:network", "-o", "clip"], "key=value"),
    ],
)
def test_what_names_no_model_is_told(sign, words, told):
    done = sign(*words)
    assert done.exit_code != 0
    error = str(done.exception) if done.exception else ""
    assert told in error + done.output
    assert not Path("first.npy").exists()


def test_exactly_one_of_recipe_and_model_is_named(sign):
    for words in ((), ("--model", "ours:network", "--recipe", "digits_mlp")):
        assert sign(*words).exit_code == 2


def test_a_class_that_needs_no_arguments_is_such_a_function():
    model = model_of("torch.nn:Identity")
    assert isinstance(model, torch.nn.Identity)
    with pytest.raises(TaskError, match="missing"):
        model_of("torch.nn:Linear")


def test_the_python_code_of_the_page_signs_the_same_task(sign):
    assert sign("--model", "ours:network", "-o", "clip=1.0").exit_code == 0
    expected = read_roster(Path("roster.json")).task
    Path("initial.npy").unlink()
    page = PAGE.read_text().split("## A network of your own")[1]
    code = page.split("```python")[1].split("```")[0]
    exec(code, {"model": model_of("ours:network"), "passphrase": b"secret"})
    assert read_roster(Path("roster.json")).task == expected
    assert (np.load("initial.npy") == np.load("first.npy")).all()


def test_a_network_of_an_installed_package_is_named_in_recipes(module, monkeypatch):
    folder = module / "ours-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: ours\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[hre_torch.models]\nournet = ours:network\n"
    )
    monkeypatch.syspath_prepend(str(module))
    model = build_model("ournet", seed=0)
    assert isinstance(model, torch.nn.Linear)
