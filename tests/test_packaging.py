"""What is built can be installed, and trains where there is no checkout."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import hre_torch
from hre_torch import load_recipe
from hre_torch.errors import RecipeError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_found_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe(name) == load_recipe(ROOT / "recipes" / f"{name}.yaml")


def test_a_name_that_is_not_shipped_is_refused_with_those_that_are():
    with pytest.raises(RecipeError, match="digits_mlp, mnist_cnn, mnist_mlp"):
        load_recipe("digits_mpl")


def test_the_wheel_takes_every_recipe_along():
    taken = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert taken == {
        f"recipes/{name}.yaml": f"hre_torch/app/recipes/shipped/{name}.yaml"
        for name in RECIPES
    }


def test_the_version_is_a_semantic_one_and_has_its_changes_told():
    assert re.fullmatch(r"\d+\.\d+\.\d+", hre_torch.__version__)
    changes = (ROOT / ".github" / "CHANGELOG.md").read_text()
    assert f"**{hre_torch.__version__}**" in changes


def test_the_pythons_are_declared_on_which_the_tests_are_run():
    """By `.ci/pythons`."""
    declared = [
        classifier.rsplit(" ", 1)[1]
        for classifier in PROJECT["project"]["classifiers"]
        if classifier.startswith("Programming Language :: Python :: 3.")
    ]
    assert declared == ["3.11", "3.12", "3.13"]
    running = ".".join(map(str, sys.version_info[:2]))
    assert running in declared


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    venv.create(folder / "tools", with_pip=True)
    python = folder / "tools" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "build", cwd=folder)
    run(python, "-m", "build", "--outdir", folder / "dist", ROOT, cwd=folder)
    return folder / "dist"


@pytest.mark.slow
def test_sdist_and_wheel_hold_what_they_must_and_no_more(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/conftest.py"} <= names
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [n for n in archive.namelist() if n.endswith("licenses/LICENSE")]
    assert licences
    files = {
        f"hre_torch/{path.relative_to(ROOT / 'hre_torch')}"
        for path in (ROOT / "hre_torch").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shipped = {f"hre_torch/app/recipes/shipped/{name}.yaml" for name in RECIPES}
    assert packed == files | shipped
    assert "hre_torch/py.typed" in packed
    assert "hre_torch/crypto/profiles/rsa2048.json" in packed


@pytest.mark.slow
def test_the_installed_wheel_runs_the_quick_start(built, tmp_path):
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)
    # Dependencies are those of the tests: torch would take minutes to install. A path
    # file adds them behind the wheel, and reads no path file of an editable install.
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))",
              cwd=tmp_path).strip()  # fmt: skip
    Path(own, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(
        python, "-c", "import hre_torch; print(hre_torch.__file__)", cwd=tmp_path
    )
    assert Path(where.strip()).is_relative_to(tmp_path / "fresh")
    command = tmp_path / "fresh" / "bin" / "hre-torch"
    told = run(command, "train", "digits_mlp", "--out", "run", "-o", "train.epochs=2",
               cwd=tmp_path)  # fmt: skip
    assert "Written to run" in told
    assert (tmp_path / "run" / "summary.json").is_file()
    assert run(command, "--version", cwd=tmp_path).split()[-1] == hre_torch.__version__
