from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
from pathlib import Path

import gmpy2
import pytest
from gmpy2 import mpz

from hre_torch.crypto.dcr.modulus import (
    Parameters,
    derive_generator,
    load_profile,
    profile_json,
    shipped_profiles,
)
from hre_torch.errors import ModulusError

TOY = load_profile("toy-insecure")
# Two far apart 256-bit primes whose product is a sound 512-bit modulus.
P = gmpy2.next_prime(mpz(2) ** 255 * 3 // 2)
Q = gmpy2.next_prime(mpz(2) ** 256 * 9 // 10)


def sign(fields: dict) -> bytes:
    """Return a profile file whose checksum fits its fields, whatever they say."""
    fields = {key: value for key, value in fields.items() if key != "sha256"}
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps({**fields, "sha256": digest}).encode()


@pytest.fixture
def fields() -> dict:
    return json.loads(profile_json(TOY))


@pytest.fixture
def load(tmp_path: Path):
    def load(content: bytes) -> Parameters:
        path = tmp_path / "foreign.json"
        path.write_bytes(content)
        return load_profile(path)

    return load


# The shipped profiles.


@pytest.mark.parametrize(
    ("name", "bits", "lanes", "exponent_bits", "security_bits"),
    [
        ("rsa2048", 2048, 16, 256, 112),
        ("demo3072", 3072, 16, 256, 128),
        ("toy-insecure", 512, 3, 64, 0),
    ],
)
def test_a_shipped_profile_has_the_promised_sizes(
    name, bits, lanes, exponent_bits, security_bits
):
    params = load_profile(name)
    assert (params.name, params.modulus_bits, params.lanes) == (name, bits, lanes)
    assert params.exponent_bits == exponent_bits
    assert params.security_bits == security_bits
    assert params.element_bytes == 2 * params.modulus_bytes == bits // 4


def test_three_profiles_are_shipped():
    assert shipped_profiles() == ["demo3072", "rsa2048", "toy-insecure"]


def test_only_the_toy_is_insecure_and_only_the_challenge_may_leave_loopback():
    profiles = [load_profile(name) for name in shipped_profiles()]
    assert [params.insecure for params in profiles] == [False, False, True]
    assert [params.loopback_only for params in profiles] == [True, False, True]


def test_the_demo_profile_says_what_it_is_for():
    provenance = load_profile("demo3072").provenance
    assert provenance.startswith(
        "demo: for trying out and benchmarks; the authors say they deleted the factors"
    )


@pytest.mark.data
@pytest.mark.skipif(
    "HRE_TORCH_DATA" not in os.environ, reason="HRE_TORCH_DATA is not set"
)
def test_rsa2048_is_the_challenge_number_digit_for_digit():
    published = Path(os.environ["HRE_TORCH_DATA"], "rsa2048.txt").read_text().strip()
    assert len(published) == 617
    assert load_profile("rsa2048").n == mpz(published)


def test_rsa2048_has_the_published_sum_of_digits():
    # RSA Laboratories published each challenge number with its sum of decimal digits.
    assert sum(map(int, load_profile("rsa2048").n.digits())) == 2738


# Parameters.


@pytest.mark.parametrize("name", ["rsa2048", "demo3072", "toy-insecure"])
def test_the_generator_is_an_nth_residue_hashed_from_the_modulus(name):
    params = load_profile(name)
    width = params.modulus_bits // 8
    seed = b"hre_torch generator 1" + int(params.n).to_bytes(width, "big")
    h = int.from_bytes(hashlib.shake_256(seed).digest(width + 16), "big")
    n = int(params.n)
    assert params.g == pow(h % n, 2 * n, n * n)


def test_another_label_gives_another_generator():
    assert derive_generator(TOY.n, b"other label") != TOY.g


def test_a_generator_of_a_hopeless_modulus_is_refused():
    with pytest.raises(ModulusError, match="trivial"):
        derive_generator(mpz(3))


def test_parameters_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TOY.lanes = 4


def test_parameters_survive_pickling_with_all_derived_values():
    copy = pickle.loads(pickle.dumps(TOY))
    assert copy == TOY
    assert hash(copy) == hash(TOY)
    assert (copy.g, copy.n_squared) == (TOY.g, TOY.n_squared)
    assert copy.digest == TOY.digest


@pytest.mark.parametrize("change", [{"lanes": 1}, {"exponent_bits": 80}, {"n": P * Q}])
def test_the_digest_tells_parameters_apart(change):
    other = dataclasses.replace(TOY, **change)
    assert other.digest != TOY.digest
    assert len(other.digest) == 32


def test_the_digest_ignores_how_a_profile_is_called():
    other = dataclasses.replace(TOY, name="other-insecure", provenance="elsewhere")
    assert other.digest == TOY.digest


def test_the_representation_leaves_the_long_numbers_out():
    assert len(repr(load_profile("demo3072"))) < 120


def test_parameters_run_the_checks_themselves():
    with pytest.raises(ModulusError, match="is prime"):
        dataclasses.replace(TOY, n=P)


# Profile files.


def test_a_profile_file_is_read_back_as_it_was_written(load):
    assert load(profile_json(TOY).encode()) == TOY


def test_a_modulus_may_be_written_in_decimal(load, fields):
    fields["modulus"] = TOY.n.digits()
    assert load(sign(fields)) == TOY


def test_a_path_may_be_given_as_text(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(profile_json(TOY))
    assert load_profile(str(path)) == TOY


def test_a_changed_file_is_read_again(load):
    load(profile_json(TOY).encode())
    other = dataclasses.replace(TOY, lanes=1)
    assert load(profile_json(other).encode()) == other


def test_an_unknown_name_is_answered_with_the_shipped_ones():
    with pytest.raises(ModulusError, match="demo3072, rsa2048, toy-insecure"):
        load_profile("rsa4096")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModulusError, match=r"nowhere\.json: No such file"):
        load_profile(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 60000, b'{"lanes": ' + b"9" * 5000 + b"}"],
    ids=["empty", "cut", "not-utf8", "deep", "long-number"],
)
def test_a_file_that_is_no_json_is_refused(load, content):
    with pytest.raises(ModulusError, match="no JSON document"):
        load(content)


def test_a_huge_file_is_refused_unread(load):
    with pytest.raises(ModulusError, match="larger than 65536 bytes"):
        load(b" " * 70000)


@pytest.mark.parametrize("content", [b"[]", b"7", b"null", b"{}"])
def test_a_document_without_the_fields_is_refused(load, content):
    with pytest.raises(ModulusError, match="expected exactly the fields"):
        load(content)


def test_an_unknown_field_is_refused(load, fields):
    with pytest.raises(ModulusError, match="expected exactly the fields"):
        load(sign({**fields, "generator": "4"}))


@pytest.mark.parametrize("key", ["name", "modulus", "lanes", "provenance"])
def test_a_missing_field_is_refused(load, fields, key):
    del fields[key]
    with pytest.raises(ModulusError, match="expected exactly the fields"):
        load(sign(fields))


@pytest.mark.parametrize(
    ("key", "value"),
    [("lanes", True), ("lanes", "3"), ("lanes", 3.0), ("modulus", 15), ("name", None)],
)
def test_a_field_of_another_type_is_refused(load, fields, key, value):
    with pytest.raises(ModulusError, match=f"field '{key}' is a"):
        load(sign({**fields, key: value}))


def test_a_file_of_another_format_is_refused(load, fields):
    with pytest.raises(ModulusError, match="has format 'hre_torch profile 9'"):
        load(sign({**fields, "format": "hre_torch profile 9"}))


@pytest.mark.parametrize("key", ["modulus", "provenance", "lanes"])
def test_a_damaged_field_is_found_by_the_checksum(load, fields, key):
    value = fields[key]
    fields[key] = value + 1 if isinstance(value, int) else value[:-1] + "7"
    with pytest.raises(ModulusError, match="is damaged"):
        load(json.dumps(fields).encode())


@pytest.mark.parametrize("digits", ["", "0x", "0xAB", "-15", "1e5", "12 34", "٣"])
def test_a_modulus_in_another_notation_is_refused(load, fields, digits):
    with pytest.raises(ModulusError, match="neither in decimal"):
        load(sign({**fields, "modulus": digits}))


def test_a_declared_length_must_be_the_true_one(load, fields):
    with pytest.raises(ModulusError, match="expected exactly 1024"):
        load(sign({**fields, "modulus_bits": 1024}))


def test_a_weak_file_that_does_not_say_so_is_refused(load, fields):
    with pytest.raises(ModulusError, match="must carry 'insecure'"):
        load(sign({**fields, "name": "production"}))
