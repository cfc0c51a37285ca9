"""What one Ring-LWE word of suite `hybrid` costs on this machine, phase by phase.

The key layer is counted in multiplications, and does not grow with the model; the words
do. Masking, hashing, adding and opening a short update tells what a word takes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hre_torch.crypto.ring_expansion import PIECE_BLOCKS, PublicExpansion
from hre_torch.crypto.ring_lwe import accumulate, mask, unmask
from hre_torch.crypto.ring_parameters import VALUES_PER_BLOCK, RingParameters

__all__ = ["word_seconds"]

_VALUES: Final = 2 * PIECE_BLOCKS * VALUES_PER_BLOCK
# The fastest of several: whatever else the machine does can only slow one.
_ROUNDS: Final = 5
_UPLOADS: Final = 3


def word_seconds() -> dict[str, float]:
    """Measure the phases that treat words, in seconds per word.

    An upload is hashed when it is signed and when it is checked, a download when its
    parts are cut out and when it is compared with the commitment of the release.

    Returns:
        Phase to seconds, named as in `Plan.multiplications`.
    """
    parameters, expansion = RingParameters(), PublicExpansion(b"estimate")
    values = np.zeros(_VALUES, dtype=np.int32)
    # A sum of secrets takes longer to multiply with than a single one.
    uploads = [mask(values, parameters, expansion) for _ in range(_UPLOADS)]
    total, words = np.zeros_like(uploads[0].words), uploads[0].words
    for upload in uploads:
        accumulate(total, upload.words)
    secrets = np.stack([upload.secret for upload in uploads])
    secret: NDArray[np.int64] = secrets.sum(axis=0, dtype=np.int64)
    masking = _fastest(lambda: mask(values, parameters, expansion))
    hashing = _fastest(lambda: hashlib.sha256(words.data))
    opening = _fastest(
        lambda: unmask(total, secret, _UPLOADS, _VALUES, parameters, expansion)
    )
    adding = _fastest(lambda: accumulate(total, words))
    seconds = {
        "encrypt": masking + hashing,
        "check": hashing,
        "add": adding,
        "open": opening + 2 * hashing,
    }
    return {phase: spent / words.size for phase, spent in seconds.items()}


def _fastest(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best
