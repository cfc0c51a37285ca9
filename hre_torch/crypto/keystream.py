"""A stream of pseudorandom octets: AES-256 in counter mode.

Suite `hybrid` needs two such streams. A *secret* one, keyed once per upload with bytes
of the operating system, feeds the Gaussian sampler: asking the operating system for
two octets per value would cost more than everything else together. A *public* one,
keyed with a hash of the task, expands into the common ring elements `a_k`; it can be
entered at any block, so that a large model is treated in pieces.

References:
    NIST SP 800-38A, section 6.5 (counter mode).
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from hre_torch.errors import ConfigurationError

__all__ = ["CIPHER_BLOCK_OCTETS", "KEY_OCTETS", "Keystream"]

KEY_OCTETS: Final = 32
CIPHER_BLOCK_OCTETS: Final = 16


class Keystream:
    """The octets AES_key(first_block) | AES_key(first_block + 1) | ...

    One key must serve one purpose: two streams with the same key and overlapping
    blocks are the same octets. The repr does not show the key.

    Args:
        key: exactly 32 octets.
        first_block: where to enter the stream, in cipher blocks of 16 octets,
            0 <= first_block < 2^128.

    Raises:
        ConfigurationError: the key has another length, or the block is out of range.
    """

    __slots__ = ("_encryptor",)

    def __init__(self, key: bytes, first_block: int = 0) -> None:
        if len(key) != KEY_OCTETS:
            raise ConfigurationError(
                f"a keystream takes a key of {KEY_OCTETS} octets, not {len(key)}"
            )
        if not 0 <= first_block < 1 << (8 * CIPHER_BLOCK_OCTETS):
            raise ConfigurationError(
                f"the first block of a keystream is {first_block}, but must lie "
                "between 0 and 2^128 - 1"
            )
        counter = first_block.to_bytes(CIPHER_BLOCK_OCTETS, "big")
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()

    def octets(self, count: int) -> bytes:
        """Return the next `count` octets of the stream, count >= 0."""
        return self._encryptor.update(bytes(count))
