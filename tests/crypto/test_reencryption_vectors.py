"""Known answers of an independent implementation; see `tests/vectors/README.md`."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest
from gmpy2 import mpz

from hre_torch import errors
from hre_torch.crypto.dcr.encryption import (
    Ciphertext,
    Exponents,
    add,
    check_public_keys,
    encrypt,
    joint_keys,
    scale,
)
from hre_torch.crypto.dcr.modulus import Parameters, check_modulus
from hre_torch.crypto.dcr.reencryption import (
    FirstPhase,
    SecondPhase,
    first_phase,
    head_powers,
    open_block,
    second_phase,
)
from hre_torch.crypto.dcr.transcript import decode_elements, encode_elements
from hre_torch.crypto.entropy import Entropy

FOLDER = Path(__file__).parents[1] / "vectors"
GENERATOR = FOLDER / "generate_reencryption.py"
DOCUMENT = FOLDER / "reencryption.json"


def read(value):
    """Return the document with hexadecimal strings as integers, names left alone."""
    if isinstance(value, dict):
        texts = {"name", "modulus", "kind", "error", "data"}
        return {k: v if k in texts else read(v) for k, v in value.items()}
    if isinstance(value, list):
        return [read(item) for item in value]
    return mpz(value, 16) if isinstance(value, str) else value


VECTORS = json.loads(DOCUMENT.read_text())
VALID = [pytest.param(read(case), id=case["name"]) for case in VECTORS["valid"]]
INVALID = [pytest.param(read(case), id=case["name"]) for case in VECTORS["invalid"]]
MODULI = {name: read(fields) for name, fields in VECTORS["moduli"].items()}
PARAMETERS = {
    name: Parameters(
        name="vectors-insecure",
        n=fields["n"],
        lanes=int(fields["lanes"]),
        exponent_bits=int(fields["exponent_bits"]),
        security_bits=0,
        provenance="test vectors; the factors are published beside them",
    )
    for name, fields in MODULI.items()
}


class ScriptedEntropy(Entropy):
    def __init__(self, *exponents):
        self.left = list(exponents)

    def exponent(self, bits):
        return self.left.pop(0)


def block_of(fields):
    return Ciphertext(fields["head"], tuple(fields["lanes"]))


@pytest.mark.parametrize("name", MODULI)
def test_the_generator_of_the_group_is_the_one_of_the_vectors(name):
    assert PARAMETERS[name].g == MODULI[name]["g"]


@pytest.mark.parametrize("case", VALID)
def test_a_run_from_keys_to_opening_gives_the_same_numbers(case):
    params = PARAMETERS[case["modulus"]]
    a, b, k = (Exponents(case[who]) for who in "abk")
    a_public, recipient = a.public(params), k.public(params)
    assert a_public == tuple(case["a_public"])
    assert b.public(params) == tuple(case["b_public"])
    assert recipient == tuple(case["recipient"])
    joint = joint_keys(a, case["b_public"], params)
    assert joint == tuple(case["joint"]) == joint_keys(b, a_public, params)

    blocks = []
    for upload in case["uploads"]:
        entropy = ScriptedEntropy(upload["r"])
        blocks.append(encrypt(upload["plaintexts"], joint, params, entropy=entropy))
        assert blocks[-1] == block_of(upload)
    total = reduce(lambda x, y: add(x, y, params), blocks)
    assert total == block_of(case["sum"])
    scaled = scale(total, int(case["factor"]), params)
    assert scaled == block_of(case["scaled"])

    powers = head_powers(scaled.head, a, len(scaled.lanes), params)
    assert powers == tuple(case["head_powers"])
    entropy = ScriptedEntropy(case["rho"], case["tau"], case["sigma"])
    first = first_phase(
        scaled, powers, a_public, joint, recipient, params, entropy=entropy
    )
    assert first == FirstPhase(tuple(case["X"]), tuple(case["Y"]), case["Z"])
    second = second_phase(first, b, recipient, params, entropy=entropy)
    assert second == SecondPhase(tuple(case["U"]), case["V"])
    assert open_block(second, k, params) == case["opened"]


@pytest.mark.parametrize("case", VALID)
def test_every_element_of_a_run_survives_its_encoding(case):
    params = PARAMETERS[case["modulus"]]
    elements = [*case["joint"], *case["X"], *case["Y"], case["Z"], *case["U"]]
    data = encode_elements(elements, params)
    found = decode_elements(data, len(elements), params, what="run")
    assert found == elements


def attempt(case):
    """Do what an invalid case must be refused for."""
    if case["kind"] == "modulus":
        return check_modulus(case["n"], int(case["bits"]))
    params = PARAMETERS[case["modulus"]]
    match case["kind"]:
        case "decode":
            return decode_elements(
                bytes.fromhex(case["data"]),
                int(case["count"]),
                params,
                what="vector",
                nontrivial=case["nontrivial"],
            )
        case "open":
            second = SecondPhase(tuple(case["U"]), case["V"])
            return open_block(second, Exponents(case["k"]), params)
        case "encrypt":
            keys = [params.g] * params.lanes
            return encrypt(case["values"], keys, params)
        case "exponents":
            return Exponents(case["values"])
        case "public_keys":
            return check_public_keys(case["values"], params, whose="somebody")
    raise AssertionError(case["kind"])


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_vector_is_refused_with_its_error(case):
    with pytest.raises(errors.HREError) as caught:
        attempt(case)
    assert type(caught.value).__name__ == case["error"]


@pytest.mark.parametrize(
    "case", [case for case in INVALID if case.values[0].get("nontrivial")]
)
def test_a_trivial_element_is_refused_only_where_it_matters(case):
    assert len(attempt(case | {"nontrivial": False})) == 3


def test_there_are_a_hundred_vectors_of_each_sort():
    assert len(VALID) >= 100
    assert len(INVALID) >= 100
    assert len({case.id for case in VALID + INVALID}) == len(VALID + INVALID)


def test_the_generator_writes_exactly_the_vectors_that_are_stored():
    # Isolated, so that it cannot import this package from the working directory.
    made = subprocess.run(
        [sys.executable, "-I", GENERATOR], capture_output=True, check=True
    )
    assert made.stdout == DOCUMENT.read_bytes()


def test_the_generator_shares_no_code_with_the_package():
    tree = ast.parse(GENERATOR.read_text())
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    assert imported <= {
        "__future__",
        "dataclasses",
        "hashlib",
        "itertools",
        "json",
        "math",
        "sys",
    }
