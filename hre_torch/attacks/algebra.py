"""What everybody can compute with group elements, attackers included."""

from __future__ import annotations

from collections.abc import Sequence

import gmpy2
import numpy as np
from gmpy2 import mpz

from hre_torch.crypto.encryption import Ciphertext
from hre_torch.crypto.modulus import Parameters
from hre_torch.errors import ChecksumError, SlotOverflowError
from hre_torch.protocol.ciphers import Parts
from hre_torch.protocol.suites.keys import LaneTask

__all__ = ["divide", "invert_block", "look", "power", "read", "unmask"]


def power(base: mpz, exponent: mpz, parameters: Parameters) -> mpz:
    """Return `base^exponent mod n^2`."""
    return gmpy2.powmod(base, exponent, parameters.n_squared)


def divide(x: mpz, y: mpz, parameters: Parameters) -> mpz:
    """Return `x / y mod n^2`."""
    return x * gmpy2.invert(y, parameters.n_squared) % parameters.n_squared


def invert_block(block: Ciphertext, parameters: Parameters) -> Ciphertext:
    """Return the inverse of a ciphertext, which encrypts the negatives."""
    return Ciphertext(
        divide(mpz(1), block.head, parameters),
        tuple(divide(mpz(1), lane, parameters) for lane in block.lanes),
    )


def read(element: mpz, parameters: Parameters) -> mpz | None:
    """Return `m` where the element is `1 + m n`, in the clear; else None."""
    quotient, remainder = gmpy2.f_divmod(element - 1, parameters.n)
    return None if remainder else quotient


def unmask(parts: Parts, lanes: LaneTask, exponents: Sequence[mpz]) -> list[mpz]:
    """Return `U_j / V^x_j` of every lane: what opening is, in uploads and downloads.

    With the right exponents honest blocks give `1 + m_j n`; `open_block` and
    `open_share` insist on that, an attacker takes what comes.

    Args:
        parts: heads `V` and lanes `U_j`.
        lanes: the task's layout.
        exponents: `x_j`, one per lane of the widest block.
    """
    heads, blocks = lanes.layout.decode(parts, what="blocks")
    return [
        divide(element, power(head, exponent, lanes.parameters), lanes.parameters)
        for head, block in zip(heads, blocks, strict=True)
        for element, exponent in zip(block, exponents, strict=False)
    ]


def look(elements: Sequence[mpz], lanes: LaneTask, count: int) -> tuple[int, ...]:
    """Return what elements show whoever takes them for unmasked plaintexts.

    Args:
        elements: one per plaintext of an update.
        lanes: the task's packing.
        count: how many updates their content should sum.

    Returns:
        The values of the update, shape `(n_values,)`, if the elements are `1 + m n`
        and their slots are right. Otherwise noise: the elements' own bits, taken for
        values.
    """
    shown = [read(element, lanes.parameters) for element in elements]
    plaintexts = [plaintext for plaintext in shown if plaintext is not None]
    if len(plaintexts) == len(shown):
        try:
            values = lanes.packing.unpack(plaintexts, lanes.n_values, count)
        except (ChecksumError, SlotOverflowError):
            pass
        else:
            return tuple(map(int, values))
    octets = b"".join(int(x).to_bytes(lanes.parameters.element_bytes) for x in elements)
    noise = np.frombuffer(octets, dtype="<i2")
    return tuple(map(int, np.resize(noise, lanes.n_values)))
