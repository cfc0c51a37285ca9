"""The offline ceremony: make a modulus of two safe primes and forget the factors.

Whoever learns `p` or `q` decrypts everything. The ceremony therefore belongs on a
machine that is thrown away afterwards, run by neither of the two servers; it hands
out `n` and a log, and nothing else. Forgetting is best effort: Python cannot wipe an
integer from memory.

A prime `p` is *safe* if `q = (p - 1)/2` is prime too. Then the squares modulo `n` form
a group without small subgroups, and the order of our generator has no small factor.

Search: draw a random odd `q`, sieve the window `q, q + 2, q + 4, ...` by small primes
over both `q` and `2q + 1`, test the survivors in order, draw again if the window is
empty. Searching in order costs next to no entropy (J. Brandt, I. Damgard, "On
Generation of Probable Primes by Incremental Search", CRYPTO 1992).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from hre_torch.crypto.dcr.foreign_parameters import check_claims, security_of
from hre_torch.crypto.dcr.modulus import Parameters, profile_json
from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.durable_files import create_file
from hre_torch.errors import ModulusError

__all__ = ["Progress", "expected_candidates", "hold_ceremony", "write_profile"]

Progress: TypeAlias = Callable[[int, int], None]
"""Called before each primality test with (candidates tried so far, expected)."""

# Below 256 bits the window would be a noticeable share of all primes of that size.
_LEAST_BITS: Final = 256
_MOST_BITS: Final = 16384
_SIEVE_BOUND: Final = 1 << 16
_WINDOW: Final = 1 << 15
# Miller-Rabin rounds: each halves the error of a composite at least twice.
_ROUNDS: Final = 64
# FIPS 186-5, appendix A.1.1: |p - q| > 2^(bits/2 - 100).
_DISTANCE_BITS: Final = 100
# Twice the twin prime constant: Hardy and Littlewood (Acta Mathematica 44, 1923)
# conjecture that q and 2q + 1 are both prime with density 1.32 / (ln q ln 2q).
_HARDY_LITTLEWOOD: Final = 1.3203236


def hold_ceremony(
    bits: int,
    name: str,
    *,
    lanes: int = 16,
    exponent_bits: int = 256,
    remark: str = "",
    progress: Progress | None = None,
    entropy: Entropy = SYSTEM_ENTROPY,
) -> Parameters:
    """Return new parameters whose modulus is a product of two forgotten safe primes.

    Args:
        bits: Length of `n`, even, 256 to 16384; 3072 for 128-bit security.
        name: Profile name; must hold "insecure" below 2048 bits.
        lanes: `L` of the profile.
        exponent_bits: Width of short exponents; at least twice the wanted security.
        remark: What to say before the log in the provenance. One that starts with
            "demo" keeps servers on loopback.
        progress: Called with (candidates tried, expected); the search has no memory,
            so "expected" stays true however many have been tried in vain.
        entropy: Source of the candidates.

    Returns:
        Checked parameters, with the log as provenance.

    Raises:
        ModulusError: Size, name, lanes or exponents are not allowed, said before the
            search begins.
    """
    if bits % 2 or not _LEAST_BITS <= bits <= _MOST_BITS:
        raise ModulusError(
            f"a modulus of {bits} bits cannot be made; ask for an even number from "
            f"{_LEAST_BITS} to {_MOST_BITS}, 3072 for 128-bit security"
        )
    security_bits = security_of(bits, exponent_bits)
    check_claims(name, bits, lanes, exponent_bits, security_bits)
    n, tried = _draw_modulus(bits, progress, entropy)
    log = (
        f"Made by the offline ceremony of hre_torch on {datetime.now(UTC):%Y-%m-%d} "
        f"with GMP {gmpy2.mp_version().removeprefix('GMP ')}: two safe primes of "
        f"{bits // 2} bits from the operating system's randomness, {tried} candidates "
        f"after the sieve, {_ROUNDS} Miller-Rabin rounds and a strong BPSW test on p, "
        "q, (p-1)/2 and (q-1)/2; the factors were not written down."
    )
    return Parameters(
        name=name,
        n=n,
        lanes=lanes,
        exponent_bits=exponent_bits,
        security_bits=security_bits,
        provenance=f"{remark} {log}".lstrip(),
    )


def write_profile(path: str | Path, params: Parameters) -> None:
    """Write a profile file that did not exist before, completely or not at all.

    Args:
        path: Where to write; its folder must exist.
        params: What to write.

    Raises:
        ModulusError: The path exists already or cannot be written.
    """
    path = Path(path)
    try:
        create_file(path, profile_json(params).encode("ascii"))
    except FileExistsError as error:
        raise ModulusError(
            f"{path} exists already; profiles are never overwritten, name another file"
        ) from error
    except OSError as error:
        raise ModulusError(
            f"cannot write the profile {path}: {error.strerror}; name a file in a "
            "folder that exists and can be written"
        ) from error


def expected_candidates(bits: int) -> int:
    """Return how many survivors of the sieve a ceremony tests on average.

    Two safe primes, each with `ln q ln p / 1.32` integers `q` per hit, of which the
    sieve lets the fraction `1/2 prod (1 - 2/r)` over odd primes `r` through.

    Args:
        bits: Length of the modulus.
    """
    passing = 0.5 * float(np.prod(1.0 - 2.0 / _small_odd_primes()))
    ln_p = bits / 2 * math.log(2.0)
    ln_q = ln_p - math.log(2.0)
    return max(1, round(2.0 * passing * ln_q * ln_p / _HARDY_LITTLEWOOD))


def _draw_modulus(
    bits: int, progress: Progress | None, entropy: Entropy
) -> tuple[mpz, int]:
    """Return `n = p q` and how many candidates were tested; drop the factors."""
    expected = expected_candidates(bits)
    tried = 0

    def counted(candidates: Iterator[mpz]) -> Iterator[mpz]:
        nonlocal tried
        for half in candidates:
            if progress is not None:
                progress(tried, expected)
            tried += 1
            yield half

    def draw() -> mpz:
        # Each prime has windows of its own: two primes of one window are close.
        halves = counted(_candidates(bits // 2 - 1, entropy))
        return next(2 * half + 1 for half in halves if _is_safe(half))

    p = draw()
    while abs(p - (q := draw())).bit_length() <= bits // 2 - _DISTANCE_BITS:
        pass
    return p * q, tried


def _candidates(bits: int, entropy: Entropy) -> Iterator[mpz]:
    """Yield odd `q` of `bits` bits where neither `q` nor `2q + 1` has a small factor.

    The two top bits are set, so that the product of two primes `2q + 1` has exactly
    twice their length.
    """
    primes = _small_odd_primes()
    while True:
        start = entropy.bits(bits) | (mpz(3) << (bits - 2)) | 1
        residues = np.array([int(start % r) for r in primes.tolist()], dtype=np.int64)
        # start + 2k = 0 mod r, and start + 2k = (r - 1)/2 mod r where r | 2q + 1.
        inverse_of_two = (primes + 1) // 2
        first = (-residues * inverse_of_two) % primes
        second = ((primes // 2 - residues) * inverse_of_two) % primes
        alive = np.ones(_WINDOW, dtype=np.bool_)
        for r, i, j in zip(
            primes.tolist(), first.tolist(), second.tolist(), strict=True
        ):
            alive[i::r] = False
            alive[j::r] = False
        for k in np.flatnonzero(alive).tolist():
            yield start + 2 * k


def _is_safe(half: mpz) -> bool:
    """Return whether `half` and `2 half + 1` are both prime.

    One Miller-Rabin round to base 2 on each turns nearly every candidate away; only
    what passes is tested thoroughly. GMP chooses its bases from a fixed stream, which
    is sound here because the candidates are ours and independent of it.
    """
    full = 2 * half + 1
    if not (gmpy2.is_strong_prp(half, 2) and gmpy2.is_strong_prp(full, 2)):
        return False
    return all(
        gmpy2.is_prime(x, _ROUNDS) and gmpy2.is_strong_bpsw_prp(x) for x in (half, full)
    )


@functools.cache
def _small_odd_primes() -> NDArray[np.int64]:
    """Return the odd primes below `_SIEVE_BOUND`, ascending."""
    composite = np.zeros(_SIEVE_BOUND, dtype=np.bool_)
    composite[:2] = True
    for r in range(2, math.isqrt(_SIEVE_BOUND) + 1):
        if not composite[r]:
            composite[r * r :: r] = True
    return np.flatnonzero(~composite)[1:].astype(np.int64)
