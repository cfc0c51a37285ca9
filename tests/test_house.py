"""The house: who may import whom, what is public, what runs without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

import hre_torch

PACKAGE = Path(hre_torch.__file__).parent
FOREIGN = {
    "accelerate", "anyio", "cryptography", "flwr", "gmpy2", "httpx", "lightning",
    "matplotlib", "msgspec", "numpy", "omegaconf", "peft", "phe", "PIL",
    "prometheus_client", "pydantic", "rich", "safetensors", "sklearn", "starlette",
    "tensorboard", "tenseal", "timm", "torch", "torchmetrics", "torchvision",
    "transformers", "typer", "uvicorn", "yaml",
}  # fmt: skip


def rooms() -> dict[str, set[str]]:
    """Read the rooms in their order, each with its foreign packages."""
    table = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    return {
        room: set(foreign)
        for room, foreign in table["tool"]["hre-torch"]["rooms"].items()
    }


def room_of(parts: Sequence[str]) -> str | None:
    """Return the room of a path or dotted name; None for a roof over several."""
    names = ["/".join(parts[:length]) for length in (2, 1)]
    return next((name for name in names if name in ROOMS), None)


def parts_of(path: Path) -> list[str]:
    """Return where a file is below the package."""
    return list(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports outside `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    skipped = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    }
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "hre_torch":
            found |= {f"hre_torch.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


ROOMS = rooms()
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_rooms_above_its_own_and_what_is_allowed(path):
    room = room_of(parts_of(path))
    if room is None:
        # The roof of several rooms: a docstring and nothing else.
        assert path.name == "__init__.py"
        assert imports(path) <= {"__future__"}
        return
    order = list(ROOMS)
    for name in imports(path):
        head, *rest = name.split(".")
        if head == "hre_torch" and rest:
            other = room_of(rest)
            assert other is not None, f"{name} has no room"
            assert order.index(other) <= order.index(room), f"{name} comes after {room}"
        elif head in FOREIGN:
            assert head in ROOMS[room], f"{name} is foreign to {room}"


def test_every_room_in_the_list_exists():
    assert {room_of(parts_of(path)) for path in FILES} - {None} == set(ROOMS)


def test_the_public_names_are_deliberate():
    for name in hre_torch.__all__:
        assert getattr(hre_torch, name) is not None
    assert dir(hre_torch) == hre_torch.__all__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        hre_torch.nonsense  # noqa: B018


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_name_in_all_exists(path):
    tree = ast.parse(path.read_text())
    exported = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]
    defined = {
        name.id if isinstance(name, ast.Name) else getattr(name, "name", None)
        for name in ast.walk(tree)
    } | {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for name in exported[0] if exported else []:
        assert name in defined


BLOCKED = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "lightning"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
"""

SERVERS = """
import hre_torch
from hre_torch.servers.local import LocalServers
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.protocol.suites import SUITES
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.protocol.task import Task, sign_task
from hre_torch.protocol.task_options import TaskOptions
from hre_torch.protocol.vectors import state_digest
import numpy as np
parameters = load_profile("toy-insecure")
operator = SigningKey(bytes(32))
secrets, roster = SUITES.get("paper").setup(
    ["a"], parameters, operator=operator.public
)
config = TaskOptions(suite="paper", profile="toy-insecure").config(
    roster, parameters, n_params=5, layout_digest=b"",
    initial_digest=state_digest(np.zeros(5, dtype=np.int64)),
)
task = Task(config, roster, parameters, sign_task(config, operator))
print(LocalServers(task, secrets).version)
"""


def test_the_servers_run_where_torch_is_not_installed():
    run = subprocess.run(
        [sys.executable, "-c", BLOCKED + SERVERS], capture_output=True, text=True
    )
    assert run.stdout == "0\n", run.stderr


def test_importing_the_package_imports_neither_torch_nor_gmpy2():
    code = "import sys, hre_torch; print({'torch', 'gmpy2'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stderr


def test_no_module_needs_what_only_posix_has():
    assert not [p for p in FILES if imports(p) & {"fcntl", "resource", "pwd", "grp"}]


@pytest.mark.slow
def test_every_module_is_imported_where_posix_modules_are_missing():
    code = """
import sys
for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules[name] = None
import importlib, pkgutil, hre_torch
for found in pkgutil.walk_packages(hre_torch.__path__, "hre_torch."):
    if not found.name.startswith("hre_torch.integrations"):
        importlib.import_module(found.name)
print("all")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "all\n", run.stderr
