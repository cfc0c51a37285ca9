"""Paillier encryption by python-paillier (`phe`): one value a time, and packed.

One value per ciphertext is what its documentation shows. At 3072 bits a whole update
takes most of an hour that way, so a sample is measured and scaled up.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

import numpy as np
import numpy.typing as npt
from phe import EncryptedNumber, generate_paillier_keypair

from benchmarks.peers.peer import Peer
from benchmarks.system import SystemFactory
from benchmarks.workload import Workload
from hre_torch.crypto.dcr.shared_key import SharedKey, add_ciphertexts

__all__ = ["SYSTEMS", "PackedPaillier", "SingleValuePaillier"]

_SAMPLE: Final = 20
"""Ciphertexts per update that are measured; each takes the same time."""


class _Paillier(Peer[list[int]]):
    """Ciphertexts as fixed-width numbers, `modulus_bits` twice over."""

    def __init__(self, name: str, workload: Workload, *, measured_values: int) -> None:
        bits = workload.parameters.modulus_bits
        super().__init__(
            name,
            workload,
            modulus_bits=bits,
            lanes=1,
            measured_values=measured_values,
        )
        self._width = workload.parameters.element_bytes

    @abstractmethod
    def encrypt(self, update: npt.NDArray[np.int32]) -> list[int]:
        """Return the ciphertexts of an update."""

    def seal(self, update: npt.NDArray[np.int32]) -> bytes:
        """Encrypt, and lay the ciphertexts end to end."""
        return self.dump(self.encrypt(update))

    def load(self, upload: bytes) -> list[int]:
        """Cut an upload into its ciphertexts."""
        width = self._width
        return [
            int.from_bytes(upload[start : start + width], "big")
            for start in range(0, len(upload), width)
        ]

    def dump(self, total: list[int]) -> bytes:
        """Lay ciphertexts end to end."""
        return b"".join(c.to_bytes(self._width, "big") for c in total)


class SingleValuePaillier(_Paillier):
    """One value per ciphertext, through phe's own numbers."""

    def __init__(self, workload: Workload) -> None:
        super().__init__("phe", workload, measured_values=_SAMPLE)
        self._public, self._private = generate_paillier_keypair(
            n_length=workload.parameters.modulus_bits
        )

    def encrypt(self, update: npt.NDArray[np.int32]) -> list[int]:
        """Encrypt value by value."""
        return [self._public.encrypt(q).ciphertext() for q in update.tolist()]

    def add(self, x: list[int], y: list[int]) -> list[int]:
        """Add encrypted numbers."""
        return [
            (self._number(a) + self._number(b)).ciphertext(be_secure=False)
            for a, b in zip(x, y, strict=True)
        ]

    def open(self, download: bytes) -> npt.NDArray[np.int64]:
        """Decrypt value by value."""
        decrypt = self._private.decrypt
        opened = [decrypt(self._number(c)) for c in self.load(download)]
        return np.array(opened, dtype=np.int64)

    def _number(self, ciphertext: int) -> EncryptedNumber:
        return EncryptedNumber(self._public, ciphertext)


class PackedPaillier(_Paillier):
    """As many values per ciphertext as fit, through our packing and shared key."""

    def __init__(self, workload: Workload) -> None:
        self._key = SharedKey.generate(workload.parameters.modulus_bits)
        self._packing = workload.packing(self._key.n)
        super().__init__(
            "phe-packed",
            workload,
            measured_values=_SAMPLE * self._packing.values_per_plaintext,
        )

    def encrypt(self, update: npt.NDArray[np.int32]) -> list[int]:
        """Pack, then encrypt plaintext by plaintext."""
        return self._key.encrypt(self._packing.pack(update))

    def add(self, x: list[int], y: list[int]) -> list[int]:
        """Multiply ciphertexts."""
        return add_ciphertexts(x, y, self._key.n)

    def open(self, download: bytes) -> npt.NDArray[np.int64]:
        """Decrypt plaintext by plaintext, then unpack."""
        plaintexts = self._key.decrypt(self.load(download))
        return self._packing.unpack(plaintexts, self.measured_values, self.uploads)


SYSTEMS: Final[tuple[SystemFactory, ...]] = (SingleValuePaillier, PackedPaillier)
