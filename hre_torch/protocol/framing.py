"""How a message is cut into header, proof, signature and parts, before it is read.

    "HRE1" | header length u32 | proof length u32 | header | proof | signature | parts

with big-endian lengths. The parts follow without lengths: the header lists them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import Any, Final, cast

import numpy.typing as npt

import hre_torch
from hre_torch.crypto.signatures import SIGNATURE_BYTES
from hre_torch.errors import MessageError

__all__ = [
    "LENGTHS_BYTES",
    "MAX_HEADER_BYTES",
    "cut",
    "lengths_of",
    "octets_of",
    "signed_bytes",
    "split",
]

_FAMILY: Final = b"HRE"
_MAGIC: Final = _FAMILY + b"1"
_LENGTHS: Final = struct.Struct(">4sII")
LENGTHS_BYTES: Final = _LENGTHS.size
"""Octets in front of the header: magic and two lengths."""
MAX_HEADER_BYTES: Final = 1 << 20
"""A release list of K = 1,000 uploads is about 100 KB; ten times that is refused."""
_LONG_OCTETS: Final = 1 << 16


def signed_bytes(header_bytes: bytes, proof: bytes) -> bytes:
    """Return what a signature covers: magic, lengths, header, proof."""
    lengths = _LENGTHS.pack(_MAGIC, len(header_bytes), len(proof))
    return lengths + header_bytes + proof


def lengths_of(start: bytes) -> tuple[int, int]:
    """Return how many octets header and proof of a message take.

    Args:
        start: at least the first `LENGTHS_BYTES` octets of the message.

    Raises:
        MessageError: that is not how a message starts.
    """
    if len(start) < LENGTHS_BYTES:
        raise MessageError(
            f"a message starts with {LENGTHS_BYTES} octets of magic and lengths, but "
            f"only {len(start)} octets arrived"
        )
    magic, header_size, proof_size = _LENGTHS.unpack_from(start)
    if magic != _MAGIC:
        known = magic[: len(_FAMILY)] == _FAMILY
        other = magic[len(_FAMILY) :].decode("ascii", "replace")
        raise MessageError(
            f"a message starts with {_MAGIC!r}, this one with {magic!r}: "
            + (
                f"made by a version of hre_torch whose messages have format {other!r}; "
                f"this is version {hre_torch.__version__}, use the same on both sides"
                if known
                else "not an hre_torch message"
            )
        )
    return header_size, proof_size


def split(data: bytes, max_bytes: int) -> tuple[bytes, bytes, bytes, memoryview]:
    """Return header, proof, signature and body of a message.

    Args:
        data: everything that was received.
        max_bytes: most octets of proof, and of the body.

    Raises:
        MessageError: lengths do not fit what arrived, or exceed their limits.
    """
    header_size, proof_size = lengths_of(data)
    if header_size > MAX_HEADER_BYTES or proof_size > max_bytes:
        raise MessageError(
            f"header of {header_size} or proof of {proof_size} octets is over the "
            f"limits of {MAX_HEADER_BYTES} and {max_bytes}"
        )
    fixed = _LENGTHS.size + header_size + proof_size + SIGNATURE_BYTES
    if not fixed <= len(data) <= fixed + max_bytes:
        raise MessageError(
            f"{len(data)} octets arrived, but header, proof and signature take {fixed} "
            f"and the task allows at most {max_bytes} more: truncated, or too long"
        )
    start = _LENGTHS.size
    view = memoryview(data)
    header = bytes(view[start : start + header_size])
    start += header_size
    proof = bytes(view[start : start + proof_size])
    start += proof_size
    return header, proof, bytes(view[start:fixed]), view[fixed:]


def cut(body: memoryview, parts: Iterable[tuple[int, bytes]]) -> tuple[bytes, ...]:
    """Return the parts of a body.

    A long part is a view of the body and no copy, so that a large model is not in
    memory twice. Whatever one does with bytes that are only read (hash, slice, join,
    compare, `np.frombuffer`) one can do with a view.

    Args:
        body: what follows the signature.
        parts: size and SHA-256 of every part.

    Raises:
        MessageError: it is longer or shorter, or a part has another hash.
    """
    listed = list(parts)
    expected = sum(size for size, _ in listed)
    if expected != len(body):
        raise MessageError(
            f"the header announces {expected} octets of body, but {len(body)} arrived"
        )
    pieces: list[bytes] = []
    start = 0
    for index, (size, digest) in enumerate(listed):
        piece = body[start : start + size].toreadonly()
        start += size
        if hashlib.sha256(piece).digest() != digest:
            raise MessageError(
                f"part {index} does not have the SHA-256 that the header announces: it "
                "was changed on its way; send the identical bytes again"
            )
        # Short ones are copied, lest they keep the whole message in memory.
        pieces.append(cast("bytes", piece) if size >= _LONG_OCTETS else bytes(piece))
    return tuple(pieces)


def octets_of(array: npt.NDArray[Any]) -> bytes:
    """Return the memory of an array as a part, without copying it.

    Args:
        array: C-contiguous; it must not change as long as the part is in use.
    """
    return cast("bytes", array.data.cast("B").toreadonly())
