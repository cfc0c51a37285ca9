"""The LWE variant of Phong et al., in numpy: one ciphertext `(c1, c2)` per update.

With a public random `A`, small secrets `R` and `S`, and `P = p R - A S`,

    c1 = e1 A + p e2,   c2 = e1 P + p e3 + m   mod q;      m = c1 S + c2   mod q mod p

for fresh small `e1, e2, e3`. All participants share `S`. `A` has n = 3000 rows and
columns, `P` as many columns as an update has values, so that the public key of the
reference workload takes gigabytes; a sample of columns is measured. What `c1` costs
does not grow with the update and is not scaled up.

Numbers modulo q = 2^77 are pairs of limbs of 39 and 38 bits, centred around zero. A
limb times a small secret, summed over n terms, stays below 2^53, so that products are
exact in double precision and go through BLAS.

References:
    L. T. Phong, Y. Aono, T. Hayashi, L. Wang, S. Moriai, "Privacy-Preserving Deep
    Learning via Additively Homomorphic Encryption", IEEE TIFS 13(5), 2018, section IV
    and its parameters n = 3000, s = 8, p = 2^48 + 1, q = 2^77.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.peers.peer import Peer
from benchmarks.system import SystemFactory
from benchmarks.workload import Workload
from hre_torch.errors import EncodingError

__all__ = ["SYSTEMS", "PhongLWE"]

_DIMENSION: Final = 3000
_DEVIATION: Final = 8.0 / math.sqrt(2.0 * math.pi)
"""Of the Gaussian with density exp(-pi x^2 / s^2)."""
_MODULUS_BITS: Final = 77
_LOW_BITS: Final = 39
_HIGH_BITS: Final = _MODULUS_BITS - _LOW_BITS
_PLAIN: Final = 2**48 + 1
_PLAIN_SHIFT: Final = 48 - _LOW_BITS
"""p x = 2^48 x + x: x in the low limb, x shifted by this in the high one."""
_LIMB_OCTETS: Final = 5
_SAMPLE: Final = 4096
_LARGEST_NORM: Final = 2 ** (53 - (_LOW_BITS - 1))
"""Largest sum of |e| whose products with limbs below 2^38 are exact in a double."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Residues:
    """Numbers `low + 2^39 high` modulo 2^77, any shape, limbs centred around zero."""

    low: Integers
    high: Integers

    @classmethod
    def reduce(cls, low: Integers, high: Integers) -> _Residues:
        """Carry from limb to limb, and drop what is beyond the modulus."""
        carry = (low + (1 << (_LOW_BITS - 1))) >> _LOW_BITS
        half = 1 << (_HIGH_BITS - 1)
        high = ((high + carry + half) & ((1 << _HIGH_BITS) - 1)) - half
        return cls(low - (carry << _LOW_BITS), high)

    def __add__(self, other: _Residues) -> _Residues:
        return _Residues.reduce(self.low + other.low, self.high + other.high)

    def dump(self) -> bytes:
        """Return ten octets per number, five for each limb."""
        limbs = np.stack([self.low + (1 << 38), self.high + (1 << 37)], axis=-1)
        octets = limbs.astype("<u8").view(np.uint8).reshape(-1, 8)
        return octets[:, :_LIMB_OCTETS].tobytes()

    @classmethod
    def load(cls, data: bytes) -> _Residues:
        """Return what `dump` wrote."""
        octets = np.frombuffer(data, dtype=np.uint8).reshape(-1, _LIMB_OCTETS)
        padded = np.zeros((len(octets), 8), dtype=np.uint8)
        padded[:, :_LIMB_OCTETS] = octets
        limbs = padded.view("<u8").astype(np.int64).reshape(-1, 2)
        return cls(limbs[:, 0] - (1 << 38), limbs[:, 1] - (1 << 37))


class _Matrix:
    """A matrix modulo q whose limbs lie in memory the way BLAS reads them."""

    def __init__(self, residues: _Residues) -> None:
        self.low = residues.low.astype(np.float64)
        self.high = residues.high.astype(np.float64)

    def from_left(self, small: Floats) -> tuple[Integers, Integers]:
        """Return the limbs of `small @ self`, not yet reduced."""
        return (
            (small @ self.low).astype(np.int64),
            (small @ self.high).astype(np.int64),
        )


class PhongLWE(Peer[tuple[_Residues, _Residues]]):
    """Public-key encryption by LWE with a decryption key that everybody shares."""

    fixed_bytes = 2 * _LIMB_OCTETS * _DIMENSION

    def __init__(self, workload: Workload) -> None:
        super().__init__(
            "phong-lwe",
            workload,
            modulus_bits=_MODULUS_BITS,
            lanes=None,
            measured_values=_SAMPLE,
        )
        self._stream = np.random.default_rng(secrets.randbits(256))
        uniform = self._stream.integers
        shape, columns = (_DIMENSION, _DIMENSION), self.measured_values
        self._a = _Matrix(
            _Residues(
                uniform(-(1 << 38), 1 << 38, shape), uniform(-(1 << 37), 1 << 37, shape)
            )
        )
        self._secret = self._small(_DIMENSION, columns)
        noise = self._small(_DIMENSION, columns).astype(np.int64)
        low = (self._a.low @ self._secret).astype(np.int64)
        high = (self._a.high @ self._secret).astype(np.int64)
        self._p = _Matrix(_Residues.reduce(noise - low, (noise << _PLAIN_SHIFT) - high))

    def seal(self, update: npt.NDArray[Any]) -> bytes:
        """Encrypt and lay out both parts of the ciphertext."""
        with self.meter.fixed():
            e1 = self._small(_DIMENSION)
            first = self._masked(self._a, e1, np.zeros(_DIMENSION, dtype=np.int64))
            head = first.dump()
        return head + self._masked(self._p, e1, update.astype(np.int64)).dump()

    def load(self, upload: bytes) -> tuple[_Residues, _Residues]:
        """Cut an upload into both parts."""
        cut = self.fixed_bytes
        return _Residues.load(upload[:cut]), _Residues.load(upload[cut:])

    def add(
        self, x: tuple[_Residues, _Residues], y: tuple[_Residues, _Residues]
    ) -> tuple[_Residues, _Residues]:
        """Add part by part."""
        with self.meter.fixed():
            first = x[0] + y[0]
        return first, x[1] + y[1]

    def dump(self, total: tuple[_Residues, _Residues]) -> bytes:
        """Lay out both parts."""
        return total[0].dump() + total[1].dump()

    def open(self, download: bytes) -> Integers:
        """Decrypt; sums are small numbers around zero modulo p."""
        first, second = self.load(download)
        low = (first.low.astype(np.float64) @ self._secret).astype(np.int64)
        high = (first.high.astype(np.float64) @ self._secret).astype(np.int64)
        opened = _Residues.reduce(low + second.low, high + second.high)
        return _modulo_plain(opened)

    def _masked(self, matrix: _Matrix, e1: Floats, plain: Integers) -> _Residues:
        """Return `e1 matrix + p e + plain` for a fresh small `e`."""
        low, high = matrix.from_left(e1)
        error = self._small(plain.size).astype(np.int64)
        return _Residues.reduce(low + error + plain, high + (error << _PLAIN_SHIFT))

    def _small(self, *shape: int) -> Floats:
        """Draw rounded Gaussians whose columns have products that stay exact."""
        drawn = np.rint(self._stream.normal(0.0, _DEVIATION, shape))
        if np.abs(drawn).sum(axis=0).max() >= _LARGEST_NORM and len(shape) > 1:
            raise EncodingError("a secret of the LWE peer is too large; run it again")
        return drawn


def _modulo_plain(x: _Residues) -> Integers:
    """Return x modulo p = 2^48 + 1, centred: 2^48 is -1 there."""
    half = 1 << (_PLAIN_SHIFT - 1)
    upper = (x.high + half) >> _PLAIN_SHIFT
    lower = x.high - (upper << _PLAIN_SHIFT)
    shifted: Integers = x.low + (lower << _LOW_BITS) - upper + _PLAIN // 2
    return shifted % _PLAIN - _PLAIN // 2


SYSTEMS: Final[tuple[SystemFactory, ...]] = (PhongLWE,)
