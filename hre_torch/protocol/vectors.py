"""Vectors of integers as octets in saved states: little-endian, of one length only."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from hre_torch.errors import LayoutError

__all__ = ["decode_vector"]


def decode_vector(
    data: bytes, dtype: Literal["<i4", "<i8"], n_values: int
) -> npt.NDArray[np.signedinteger]:
    """Return a vector from its octets.

    Args:
        data: `n_values` integers one after another.
        dtype: their width.
        n_values: length of the task's flat vector.

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
