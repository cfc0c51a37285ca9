"""The words of suite `hybrid` alone, without the key layer: where its time does not go.

What is left when heavy cryptography no longer depends on the model's size: masking,
adding and unmasking one 32-bit word per value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.meter import Meter
from benchmarks.system import System, SystemFactory
from benchmarks.workload import Workload
from hre_torch.crypto.rlwe.masking import accumulate, mask, unmask
from hre_torch.crypto.rlwe.parameters import RingParameters
from hre_torch.crypto.rlwe.sampling import PublicExpansion
from hre_torch.errors import EncodingError
from hre_torch.protocol.suites.hybrid import SUITE

__all__ = ["SYSTEMS", "HybridWords"]


class HybridWords(System):
    """Ring-LWE masks as the roles of suite `hybrid` use them.

    1. `mask`: quantised values to words.
    2. `add`: the DSP adds the words of an upload to its sum, in place.
    3. `add_checked`: the same, and before it compares their SHA-256 with the header's.
    4. `unmask`: the sum of words and the sum of secrets to the sum of values.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__("hybrid-words", workload, modulus_bits=None, lanes=None)
        self._fixed_point = workload.fixed_point
        self._parameters = RingParameters(
            workload.value_bits, SUITE.default_max_additions
        )
        self._expansion = PublicExpansion(b"benchmark")

    def round(
        self, updates: Sequence[npt.NDArray[np.float64]], meter: Meter
    ) -> list[npt.NDArray[np.int64]]:
        """Play the phases that the class docstring lists, in that order."""
        n_values = self.measured_values
        total = np.zeros(self._parameters.words(n_values), dtype=np.uint32)
        checked, secrets = total.copy(), []
        for update in updates:
            values = self._fixed_point.quantise(update)
            with meter("mask") as reading:
                masked = mask(values, self._parameters, self._expansion)
            reading.bytes = masked.words.nbytes
            secrets.append(masked.secret)
            upload = masked.words.tobytes()
            self._add(total, checked, upload, meter)
        secret_sum = np.stack(secrets).sum(axis=0, dtype=np.int64)
        if not np.array_equal(total, checked):
            raise EncodingError("two sums of the same words differ")
        with meter("unmask") as reading:
            opened = unmask(
                total,
                secret_sum,
                len(updates),
                n_values,
                self._parameters,
                self._expansion,
            )
        reading.bytes = total.nbytes
        return [opened]

    def _add(
        self,
        total: npt.NDArray[np.uint32],
        checked: npt.NDArray[np.uint32],
        upload: bytes,
        meter: Meter,
    ) -> None:
        announced = hashlib.sha256(upload).digest()
        with meter("add") as reading:
            accumulate(total, np.frombuffer(upload, dtype=np.uint32))
        reading.bytes = len(upload)
        with meter("add_checked") as reading:
            if hashlib.sha256(upload).digest() != announced:
                raise EncodingError("words changed while they lay in memory")
            accumulate(checked, np.frombuffer(upload, dtype=np.uint32))
        reading.bytes = len(upload)


SYSTEMS: Final[tuple[SystemFactory, ...]] = (HybridWords,)
