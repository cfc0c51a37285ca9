"""Vectors of integers as octets, in saved states and under hashes: little-endian."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import numpy.typing as npt

from hre_torch.errors import LayoutError

__all__ = ["chained_digest", "decode_vector", "state_digest"]


def decode_vector(
    data: bytes, dtype: Literal["<i4", "<i8"], n_values: int
) -> npt.NDArray[np.signedinteger]:
    """Return a vector from its octets.

    Args:
        data: `n_values` integers one after another.
        dtype: their width.
        n_values: how many; the task's flat vector, or what an upload holds.

    Returns:
        Shape `(n_values,)`, in native byte order, writeable.

    Raises:
        LayoutError: the octets are not a vector of that length.
    """
    expected = np.dtype(dtype).itemsize * n_values
    if len(data) != expected:
        raise LayoutError(
            f"a vector of {n_values} values takes {expected} octets, but {len(data)} "
            "were saved: they are damaged, or belong to another model"
        )
    return np.frombuffer(data, dtype=dtype).astype(np.dtype(dtype).newbyteorder("="))


def chained_digest(previous: bytes, digest: bytes) -> bytes:
    """Return SHA-256 of one model's digest after that of all models before it."""
    return hashlib.sha256(previous + digest).digest()


def state_digest(released: npt.NDArray[np.int64]) -> bytes:
    """Return SHA-256 of released weights, int64 little-endian, shape `(n_values,)`."""
    return hashlib.sha256(np.ascontiguousarray(released, "<i8").data).digest()
