"""One Paillier key pair shared by all participants: the baseline of suite `phong`.

L. T. Phong, Y. Aono, T. Hayashi, L. Wang, S. Moriai, "Privacy-Preserving Deep Learning
via Additively Homomorphic Encryption", IEEE TIFS 13(5), 2018: whoever trains holds the
private key, the server holds the modulus and adds. So every participant can open every
other's upload, and they need a secure channel to share the key; `hre_torch` exists to
repair that. Keep it for comparison.

The encryption is P. Paillier, EUROCRYPT 1999, by the library `phe`:
`c = (1 + m n) r^n mod n^2` with `r` uniform and invertible modulo `n`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import gmpy2
from gmpy2 import mpz
from phe import PaillierPrivateKey, PaillierPublicKey

from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.errors import (
    ConfigurationError,
    CryptoError,
    DecryptionError,
    KeyFileError,
    SlotOverflowError,
)

__all__ = ["SharedKey", "add_ciphertexts"]

# Below this, packing has no room for even one value and its service slots.
_FEWEST_BITS: Final = 256
# Far more than anybody needs; whether longer numbers are prime takes seconds to tell.
_MOST_BITS: Final = 8192
_PRIME_ROUNDS: Final = 40


class SharedKey:
    """The key pair that all participants of suite `phong` hold.

    Args:
        p: Prime.
        q: Another prime, as long as `p`, so that `gcd(n, (p - 1)(q - 1)) = 1`.

    Raises:
        KeyFileError: The numbers are not two different primes of one length.
    """

    __slots__ = ("_private", "_public")

    def __init__(self, p: int, q: int) -> None:
        if (
            p == q
            or p.bit_length() != q.bit_length()
            or not all(gmpy2.is_prime(mpz(x), _PRIME_ROUNDS) for x in (p, q))
        ):
            raise KeyFileError(
                "a shared key must hold two different primes of one length; fetch the "
                "key again or make one with SharedKey.generate"
            )
        self._public = PaillierPublicKey(int(p) * int(q))
        self._private = PaillierPrivateKey(self._public, int(p), int(q))

    @classmethod
    def generate(cls, bits: int, *, entropy: Entropy = SYSTEM_ENTROPY) -> SharedKey:
        """Return a fresh key pair.

        Args:
            bits: Exact length of `n`, even, 256 to 8192; 3072 for 128-bit security.
            entropy: Source of both primes.

        Raises:
            ConfigurationError: `bits` is odd, too small or too large.
        """
        if not _FEWEST_BITS <= bits <= _MOST_BITS or bits % 2:
            raise ConfigurationError(
                f"a shared key of {bits} bits, expected an even number from "
                f"{_FEWEST_BITS} to {_MOST_BITS}; 3072 gives 128-bit security"
            )
        p = q = _prime(bits // 2, entropy)
        while q == p:
            q = _prime(bits // 2, entropy)
        return cls(p, q)

    @classmethod
    def from_bytes(cls, data: bytes) -> SharedKey:
        """Return the key pair that `to_bytes` wrote.

        Raises:
            KeyFileError: The bytes are not two primes of one length.
        """
        half = len(data) // 2
        if len(data) != 2 * half or 8 * len(data) > _MOST_BITS:
            raise KeyFileError(
                f"a shared key of {len(data)} bytes, expected two primes of equal "
                f"length and {_MOST_BITS // 8} bytes at most; fetch the key again"
            )
        return cls(
            int.from_bytes(data[:half], "big"), int.from_bytes(data[half:], "big")
        )

    def to_bytes(self) -> bytes:
        """Return both primes, big-endian, equally long: for a key file only."""
        width = (self._private.q.bit_length() + 7) // 8
        p, q = self._private.p, self._private.q
        return bytes(p.to_bytes(width, "big") + q.to_bytes(width, "big"))

    def __repr__(self) -> str:
        return f"SharedKey(<secret>, bits={self.n.bit_length()})"

    @property
    def n(self) -> int:
        """The public modulus: all that the server needs."""
        return int(self._public.n)

    def encrypt(
        self, plaintexts: Sequence[int], *, entropy: Entropy = SYSTEM_ENTROPY
    ) -> list[int]:
        """Return one ciphertext per plaintext, each with a fresh `r`.

        Args:
            plaintexts: Integers `-n < m < n`, taken modulo `n`.
            entropy: Source of `r`.

        Raises:
            SlotOverflowError: A plaintext has more bits than the modulus.
        """
        n = self.n
        if not all(-n < plaintext < n for plaintext in plaintexts):
            raise SlotOverflowError(
                "a plaintext lies outside -n < m < n and would come back changed; pack "
                "fewer values into one plaintext"
            )
        # phe replaces a missing or zero r by one of its own; a unit is neither.
        return [
            int(self._public.raw_encrypt(int(m) % n, r_value=int(entropy.unit(mpz(n)))))
            for m in plaintexts
        ]

    def decrypt(self, ciphertexts: Sequence[int]) -> list[int]:
        """Return the plaintexts as residues `0 <= m < n`.

        Args:
            ciphertexts: Elements of `Z*_{n^2}`.

        Raises:
            DecryptionError: A number is no ciphertext under this key.
        """
        n = self.n
        for ciphertext in ciphertexts:
            if not 0 < ciphertext < n * n or gmpy2.gcd(ciphertext, n) != 1:
                raise DecryptionError("a ciphertext does not open under this key")
        return [int(self._private.raw_decrypt(int(c))) for c in ciphertexts]


def add_ciphertexts(x: Sequence[int], y: Sequence[int], n: int) -> list[int]:
    """Return ciphertexts of the element-wise sums modulo `n`, without any key.

    Args:
        x: Ciphertexts, shape (k,).
        y: Ciphertexts under the same key, shape (k,).
        n: Public modulus.

    Raises:
        CryptoError: The lengths differ.
    """
    if len(x) != len(y):
        raise CryptoError(
            f"{len(x)} ciphertexts cannot be added to {len(y)}; add uploads of one "
            "layout"
        )
    n_squared = mpz(n) * n
    return [int(mpz(a) * b % n_squared) for a, b in zip(x, y, strict=True)]


def _prime(bits: int, entropy: Entropy) -> int:
    """Return a prime of exactly `bits` bits.

    The two highest bits are set, so that a product of two such primes has exactly
    `2 bits` bits.
    """
    while True:
        start = entropy.bits(bits) | mpz(3) << (bits - 2)
        prime = gmpy2.next_prime(start)
        if prime.bit_length() == bits:
            return int(prime)
