"""The released weights in a run's weights file, as the integers that everybody opened.

The file holds a module's tensors under their own names, in their own dtypes. Which of
them were released, and in which order they make up the flat vector, is in its metadata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from hre_torch.errors import MessageError

__all__ = ["RELEASED", "released_values"]

RELEASED: Final = "released"
"""Key of the metadata: names of the released tensors, a list in JSON."""


def released_values(
    path: Path, n_values: int, fraction_bits: int
) -> npt.NDArray[np.int64] | None:
    """Return the released weights of a weights file.

    Args:
        path: the file.
        n_values: length of the flat vector.
        fraction_bits: `f`.

    Returns:
        int64 at scale 2^f, shape `(n_values,)`; None if a weight is so large that its
        dtype holds no longer every integer, and the file only an image of the vector.

    Raises:
        MessageError: the file is no weights file, or of other weights.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            names = json.loads((file.metadata() or {})[RELEASED])
            tensors = [file.get_tensor(name) for name in names]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise MessageError(f"the released weights are unreadable: {error}") from None
    pieces, exact = [np.empty(0)], True
    for tensor in tensors:
        scaled = tensor.ravel().astype(np.float64) * 2.0**fraction_bits
        # Every integer up to 2^(m + 1) has its own float of m stored mantissa bits.
        most = 2.0 ** (np.finfo(tensor.dtype).nmant + 1)
        exact &= bool(np.all(np.abs(scaled) <= most))
        pieces.append(scaled)
    values = np.concatenate(pieces)
    if values.size != n_values:
        raise MessageError(
            f"it holds {values.size} released weights, but the task has {n_values}"
        )
    if not exact:
        return None
    whole = np.rint(values)
    if not np.array_equal(whole, values):
        raise MessageError(
            f"weight {int(np.argmax(whole != values))} of {n_values} is no multiple of "
            f"2^-{fraction_bits}, as every released one is"
        )
    return whole.astype(np.int64)
