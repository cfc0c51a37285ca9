from __future__ import annotations

import hashlib

import gmpy2
import pytest

from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.entropy import Entropy
from hre_torch.crypto.keys import ceremony
from hre_torch.crypto.keys.ceremony import (
    expected_candidates,
    hold_ceremony,
    write_profile,
)
from hre_torch.errors import ModulusError


class ScriptedEntropy(Entropy):
    """Serves a stream hashed from a label, so that a test knows the candidates."""

    def __init__(self, label: bytes) -> None:
        self.label = label
        self.calls = 0

    def octets(self, count: int) -> bytes:
        self.calls += 1
        return hashlib.shake_256(self.label + self.calls.to_bytes(8, "big")).digest(
            count
        )


def small(**settings):
    return hold_ceremony(256, "small-insecure", lanes=2, exponent_bits=64, **settings)


def factors_of(label: bytes, monkeypatch) -> tuple[gmpy2.mpz, ...]:
    """Return the safe primes of a scripted ceremony by watching the accepted ones."""
    accepted = []
    is_safe = ceremony._is_safe

    def watch(half):
        if verdict := is_safe(half):
            accepted.append(2 * half + 1)
        return verdict

    monkeypatch.setattr(ceremony, "_is_safe", watch)
    params = small(entropy=ScriptedEntropy(label))
    assert params.n == accepted[0] * accepted[1]
    return tuple(accepted)


@pytest.mark.parametrize("label", [b"a", b"b", b"c"])
def test_both_factors_are_safe_primes_of_half_the_length(label, monkeypatch):
    for p in factors_of(label, monkeypatch):
        assert p.bit_length() == 128
        assert gmpy2.is_prime(p, 64)
        assert gmpy2.is_prime((p - 1) // 2, 64)


def test_a_second_prime_near_the_first_is_drawn_again():
    class Repeating(ScriptedEntropy):
        """Answers the first two calls alike, so that both primes come out equal."""

        def octets(self, count):
            drawn = super().octets(count)
            return (
                ScriptedEntropy(self.label).octets(count) if self.calls == 2 else drawn
            )

    entropy = Repeating(b"repeat")
    params = small(entropy=entropy)
    assert entropy.calls == 3
    assert not gmpy2.is_square(params.n)


@pytest.mark.parametrize("bits", [256, 258, 320, 512])
def test_the_modulus_has_exactly_the_length_asked_for(bits):
    params = hold_ceremony(bits, "small-insecure", lanes=1, exponent_bits=64)
    assert params.modulus_bits == bits


def test_every_candidate_comes_from_the_entropy():
    first, second = (small(entropy=ScriptedEntropy(b"same")) for _ in range(2))
    assert first.n == second.n
    assert first.n != small(entropy=ScriptedEntropy(b"other")).n


def test_progress_counts_each_candidate_against_the_expected_number():
    calls = []
    small(progress=lambda tried, expected: calls.append((tried, expected)))
    assert [tried for tried, _ in calls] == list(range(len(calls)))
    assert {expected for _, expected in calls} == {expected_candidates(256)}


def test_the_expected_number_of_candidates_is_what_ceremonies_need():
    tried = []
    for run in range(60):
        counts = []
        small(
            progress=lambda count, _, counts=counts: counts.append(count),
            entropy=ScriptedEntropy(b"mean %d" % run),
        )
        tried.append(counts[-1] + 1)
    mean = sum(tried) / len(tried)
    # The sum of two geometric counts has a deviation of mean / sqrt 2; four of them.
    assert mean == pytest.approx(expected_candidates(256), rel=4 / (2 * 60) ** 0.5)


def test_sieving_keeps_every_safe_prime_and_no_multiple_of_a_small_prime():
    candidates = ceremony._candidates(127, ScriptedEntropy(b"sieve"))
    kept = [next(candidates) for _ in range(100)]
    start, end = int(kept[0]), int(kept[-1])
    small_primes = ceremony._small_odd_primes().tolist()
    expected = [
        half
        for half in range(start, end + 1, 2)
        if all(half % r and (2 * half + 1) % r for r in small_primes)
    ]
    assert kept == expected


def test_the_small_primes_are_all_there():
    primes = ceremony._small_odd_primes()
    assert primes[:5].tolist() == [3, 5, 7, 11, 13]
    # There are 6542 primes below 2^16, 2 among them.
    assert len(primes) == 6541
    assert all(gmpy2.is_prime(r) for r in primes.tolist())


def test_the_provenance_is_the_log_behind_the_remark():
    provenance = small(remark="demo: by way of trial.").provenance
    assert provenance.startswith("demo: by way of trial. Made by the offline ceremony")
    assert "two safe primes of 128 bits" in provenance
    assert "candidates" in provenance


def test_nothing_but_the_modulus_and_a_log_is_handed_out(monkeypatch, tmp_path):
    p, q = factors_of(b"forget", monkeypatch)
    params = small(entropy=ScriptedEntropy(b"forget"))
    write_profile(tmp_path / "small.json", params)
    written = (tmp_path / "small.json").read_text()
    for secret in (p, q, p - 1, q - 1, (p - 1) // 2, (q - 1) // 2, p + q):
        assert str(secret) not in written
        assert f"{secret:x}" not in written


@pytest.mark.parametrize("bits", [0, 254, 511, 16386])
def test_a_size_that_cannot_be_made_is_refused(bits):
    with pytest.raises(ModulusError, match="cannot be made"):
        hold_ceremony(bits, "small-insecure")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"name": "weak"}, "must carry 'insecure'"),
        ({"name": "No insecure"}, "is not allowed"),
        ({"name": "insecure", "lanes": 0}, "0 lanes"),
        ({"name": "insecure", "exponent_bits": 0}, "exponents of 0 bits"),
    ],
)
def test_wrong_settings_are_refused_before_the_search_begins(settings, reason):
    class NoEntropy(Entropy):
        def octets(self, count):
            raise AssertionError("the search has begun")

    with pytest.raises(ModulusError, match=reason):
        hold_ceremony(512, **settings, entropy=NoEntropy())


# Writing.


def test_a_written_profile_loads_as_the_same_parameters(tmp_path):
    params = small()
    write_profile(tmp_path / "small.json", params)
    assert load_profile(tmp_path / "small.json") == params


def test_a_written_profile_leaves_no_other_file_behind(tmp_path):
    write_profile(tmp_path / "small.json", load_profile("toy-insecure"))
    assert [path.name for path in tmp_path.iterdir()] == ["small.json"]


def test_a_profile_is_never_overwritten(tmp_path):
    path = tmp_path / "small.json"
    path.write_text("precious")
    with pytest.raises(ModulusError, match="exists already"):
        write_profile(path, load_profile("toy-insecure"))
    assert path.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["small.json"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModulusError, match="No such file or directory"):
        write_profile(tmp_path / "no" / "small.json", load_profile("toy-insecure"))


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ModulusError, match="No space left"):
        write_profile(tmp_path / "small.json", load_profile("toy-insecure"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_ceremony_of_real_size_ends():
    params = hold_ceremony(3072, "real")
    assert params.modulus_bits == 3072
    assert params.security_bits == 128
    assert not params.loopback_only
