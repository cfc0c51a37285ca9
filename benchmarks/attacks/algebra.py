"""What everybody can compute with group elements, attackers included."""

from __future__ import annotations

from collections.abc import Sequence

import gmpy2
import numpy as np
from gmpy2 import mpz

from benchmarks.attacks.words import bare, decode_words, open_words
from hre_torch.crypto.dcr.encryption import Ciphertext
from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.errors import ChecksumError, DecryptionError, SlotOverflowError
from hre_torch.protocol.suite import Parts
from hre_torch.protocol.suites.blocks import LaneTask
from hre_torch.protocol.suites.hybrid import key_layer
from hre_torch.protocol.task import Task

__all__ = [
    "blocks_of",
    "divide",
    "invert_block",
    "lanes_of",
    "look",
    "power",
    "read",
    "unmask",
]


def lanes_of(task: Task) -> LaneTask:
    """Return the lanes of a task: in `hybrid` they carry a secret, else an update."""
    return key_layer(task) if task.config.suite == "hybrid" else LaneTask(task)


def blocks_of(parts: Parts, lanes: LaneTask) -> tuple[list[mpz], list[tuple[mpz, ...]]]:
    """Return heads and lanes of an upload, a download or a dumped sum."""
    return lanes.layout.decode(parts[:2], what="blocks")


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
        parts: heads `V`, lanes `U_j`, and whatever else there is.
        lanes: the task's layout.
        exponents: `x_j`, one per lane of the widest block.
    """
    heads, blocks = blocks_of(parts, lanes)
    return [
        divide(element, power(head, exponent, lanes.parameters), lanes.parameters)
        for head, block in zip(heads, blocks, strict=True)
        for element, exponent in zip(block, exponents, strict=False)
    ]


def look(
    elements: Sequence[mpz], lanes: LaneTask, count: int, parts: Parts
) -> tuple[int, ...]:
    """Return what elements show whoever takes them for unmasked plaintexts.

    Args:
        elements: one per plaintext.
        lanes: the task's packing.
        count: how many updates their content should sum.
        parts: the message that they come from, for its words in suite `hybrid`.

    Returns:
        The values of the update, shape `(n_sealed,)`, if the elements are `1 + m n`
        and their slots are right. Otherwise noise: the elements' own bits, or in
        `hybrid` the words, taken for values.
    """
    task = lanes.task
    hybrid, n_values = task.config.suite == "hybrid", task.config.n_sealed
    shown = [read(element, lanes.parameters) for element in elements]
    plaintexts = [plaintext for plaintext in shown if plaintext is not None]
    if len(plaintexts) == len(shown):
        try:
            values = lanes.packing.unpack(plaintexts, lanes.n_values, count)
            if hybrid:
                values = open_words(parts, values, count, task)
        except (ChecksumError, DecryptionError, SlotOverflowError):
            pass
        else:
            return tuple(map(int, values))
    if hybrid:
        return tuple(map(int, bare(decode_words(parts), n_values)))
    octets = b"".join(int(x).to_bytes(lanes.parameters.element_bytes) for x in elements)
    noise = np.frombuffer(octets, dtype="<i2")
    return tuple(map(int, np.resize(noise, n_values)))
