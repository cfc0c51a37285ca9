"""Secret randomness has one source; every other generator must say why it may exist.

The lint reads syntax trees: it follows imports and their aliases, so that it finds a
generator under whatever name a file gives it.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hre_torch

PACKAGE = Path(hre_torch.__file__).parent

ONLY_SOURCE = "crypto/entropy.py"

SEEDED = {
    "http_client.py": "pauses before a retry",
    "app/data/load.py": "which pictures belong to a subset; the split of digits",
    "app/data/partition.py": "who owns which pictures, their order and augmentation",
    "encoding/fixed_point.py": "stochastic rounding of values that are sealed later",
    "app/models.py": "a model's first weights, which everybody knows",
    "app/training/schedule.py": "simulated speeds of participants",
    "app/training/arithmetic.py": "torch's own stream (dropout), kept across a restart",
}
"""Files that draw from other generators, and the non-secret that each one draws."""

GENERATORS = (
    *("random", "secrets", "os.urandom", "os.getrandom", "numpy.random"),
    *("gmpy2.random_state", "gmpy2.mpz_random", "gmpy2.mpz_urandomb"),
    *("gmpy2.mpz_rrandomb", "gmpy2.mpfr_random", "gmpy2.mpfr_nrandom"),
    *("gmpy2.mpfr_grandom", "gmpy2.mpc_random"),
    *("torch.rand", "torch.seed", "torch.manual_seed", "torch.initial_seed"),
    *("torch.Generator", "torch.default_generator", "torch.normal", "torch.bernoulli"),
    *("torch.multinomial", "torch.poisson", "torch.get_rng_state"),
    *("torch.set_rng_state", "torch.cuda.manual_seed", "torch.distributions"),
    *("torch.cuda.get_rng_state", "torch.cuda.set_rng_state"),
    *("uuid.uuid1", "uuid.uuid4", "tempfile.mktemp", "lightning.seed_everything"),
    *("phe.generate_paillier_keypair", "phe.paillier.generate_paillier_keypair"),
    *("phe.util.getprimeover", "phe.util.random"),
    *("cryptography.fernet.Fernet.generate_key", "scipy.stats", "faker"),
)
"""Dotted names of generators; one that continues a name here is meant as well."""

PRIVATE_KEYS = {"generate_private_key", "generate_parameters", "generate_key"}
"""How pyca/cryptography makes keys, of whatever kind."""

TENSOR_DRAWS = {
    *("random_", "normal_", "uniform_", "bernoulli_", "exponential_", "cauchy_"),
    *("geometric_", "log_normal_"),
}
"""Methods that fill a tensor from torch's own stream."""

IMPORTERS = {"import_module", "__import__"}


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Return what every imported name of a file stands for, as a dotted name."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                full = alias.name if alias.asname else alias.name.split(".")[0]
                names[alias.asname or full] = full
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    """Return the full dotted name of an expression that starts at an import."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        head = dotted(node.value, names)
        return f"{head}.{node.attr}" if head else None
    return None


def is_generator(name: str) -> bool:
    """Whether a dotted name is a generator, lies in one, or starts like one."""
    return any(
        name == known
        or name.startswith((f"{known}.", f"{known}_"))
        # torch.rand stands for randn, randint, randperm and torch.random besides.
        or (known == "torch.rand" and name.startswith(known))
        or (known == "gmpy2.mpz_random" and name.startswith(known))
        for known in GENERATORS
    )


def imports_of(node: ast.AST) -> list[str]:
    """Return the modules that a statement or a call by name imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args:
        function = node.func
        called = getattr(function, "attr", getattr(function, "id", None))
        first = node.args[0]
        if called in IMPORTERS and isinstance(first, ast.Constant):
            return [str(first.value)]
    return []


def draws(source: str) -> list[str]:
    """Return every use of a generator in a file's source, as `line: name`."""
    tree = ast.parse(source)
    names = imported_names(tree)
    found = []
    for node in ast.walk(tree):
        hits = [name for name in imports_of(node) if is_generator(name)]
        if isinstance(node, ast.Attribute | ast.Name):
            name = dotted(node, names)
            hits += [name] if name and is_generator(name) else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            method = node.func.attr
            makes_key = method in PRIVATE_KEYS or (
                # SigningKey.generate and SharedKey.generate draw from an Entropy.
                method == "generate" and "PrivateKey" in ast.unparse(node.func.value)
            )
            hits += [method] if makes_key or method in TENSOR_DRAWS else []
        found += [f"{node.lineno}: {name}" for name in hits]
    return found


FILES = {
    path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))
}


@pytest.mark.parametrize("name", [n for n in FILES if n != ONLY_SOURCE])
def test_a_file_draws_nothing_unless_it_is_listed_with_its_reason(name):
    found = draws(FILES[name].read_text())
    if name not in SEEDED:
        assert found == [], (
            "secret randomness comes from hre_torch.crypto.entropy; a seeded stream of "
            "something that is no secret is listed in SEEDED with its reason"
        )


@pytest.mark.parametrize("name", SEEDED)
def test_a_listed_file_exists_and_still_draws_something(name):
    assert draws(FILES[name].read_text()) != []


@pytest.mark.parametrize("name", SEEDED)
def test_no_room_where_keys_and_masks_are_made_is_listed(name):
    assert not name.startswith(("crypto/", "protocol/"))


def test_the_one_source_reads_the_operating_system_and_nothing_else():
    found = draws(FILES[ONLY_SOURCE].read_text())
    assert {line.split(": ")[1] for line in found} == {"secrets", "secrets.token_bytes"}


PLANTED = {
    "the standard generator": "import random\nk = random.getrandbits(256)",
    "under another name": "import random as entropy\nk = entropy.random()",
    "one function of it": "from random import getrandbits as bits\nk = bits(256)",
    "inside a function": "def f():\n    import random\n    return random.random()",
    "numpy's": "import numpy as np\nk = np.random.default_rng(0)",
    "numpy's under another name": "from numpy import random as r\nk = r.bytes(9)",
    "one class of numpy's": "from numpy.random import Generator",
    "a submodule": "import numpy.random as source\nk = source.rand()",
    "GMP's": "import gmpy2\ns = gmpy2.random_state(1)\nk = gmpy2.mpz_urandomb(s, 9)",
    "GMP's uniform one": "from gmpy2 import mpz_random",
    "the system past the one source": "import os\nk = os.urandom(32)",
    "secrets past the one source": "from secrets import token_bytes",
    "torch's": "import torch\nk = torch.randint(0, 2, (9,))",
    "torch's seed": "import torch\ntorch.manual_seed(0)",
    "torch's module": "import torch\nk = torch.random.get_rng_state()",
    "a tensor method": "def f(tensor):\n    return tensor.normal_()",
    "a key made elsewhere": (
        "from cryptography.hazmat.primitives.asymmetric.ed25519 import "
        "Ed25519PrivateKey\nk = Ed25519PrivateKey.generate()"
    ),
    "an AES key made elsewhere": (
        "from cryptography.hazmat.primitives.ciphers.aead import AESGCM\n"
        "k = AESGCM.generate_key(bit_length=256)"
    ),
    "an RSA key made elsewhere": (
        "from cryptography.hazmat.primitives.asymmetric import rsa\n"
        "k = rsa.generate_private_key(65537, 3072)"
    ),
    "phe's own primes": "import phe\nk = phe.generate_paillier_keypair()",
    "an import by name": "import importlib\nr = importlib.import_module('random')",
    "an import by builtin": "r = __import__('random')",
}


@pytest.mark.parametrize("source", PLANTED.values(), ids=PLANTED)
def test_the_lint_catches_a_planted_generator(source):
    assert draws(source)


CLEAN = {
    "the one source": (
        "from hre_torch.crypto.entropy import SYSTEM_ENTROPY\n"
        "k = SYSTEM_ENTROPY.octets(32)"
    ),
    "a word that sounds like it": "random_state = 3\nrandomness = [random_state]",
    "a keyword of somebody else": "from sklearn import x\nx.split(random_state=0)",
    "numpy without a generator": "import numpy as np\nk = np.zeros(3)",
    "torch without a generator": "import torch\nk = torch.zeros(3)",
    "a key from given octets": "k = SigningKey.generate(entropy)",
}


@pytest.mark.parametrize("source", CLEAN.values(), ids=CLEAN)
def test_the_lint_leaves_honest_code_alone(source):
    assert draws(source) == []


def test_a_violation_planted_in_a_real_file_is_caught():
    text = FILES["protocol/suites/gated_roles.py"].read_text()
    assert draws(text) == []
    planted = text.replace(
        "r = SYSTEM_ENTROPY.exponent(parameters.exponent_bits)",
        "r = mpz(np.random.randint(1 << 62))",
    )
    assert planted != text
    assert [line.split(": ")[1] for line in draws(planted)] == [
        "numpy.random.randint",
        "numpy.random",
    ]
