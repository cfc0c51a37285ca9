"""CKKS by TenSEAL, the shared-key way in which NVIDIA FLARE protects updates.

All participants hold one secret key; the server gets the public half and adds. Values
travel as floats and come back with a small error, here far below one unit of the fixed
point, so that rounding gives the exact sum.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.peers.peer import Peer
from benchmarks.system import SystemFactory
from benchmarks.workload import Workload
from hre_torch.errors import MissingExtraError

try:
    import tenseal
except ImportError as error:
    raise MissingExtraError(
        "peer 'tenseal' needs the package tenseal, which is not installed; run "
        "pip install 'hre-torch[bench]'"
    ) from error

__all__ = ["SYSTEMS", "SharedKeyCKKS"]

# FLARE's settings; 128-bit security by the table of the Homomorphic Encryption
# Standard (Albrecht et al., 2018), which allows up to 218 modulus bits here.
_DEGREE: Final = 8192
_PRIME_BITS: Final = (60, 40, 40)
_SCALE: Final = 2.0**40


class SharedKeyCKKS(Peer[Any]):
    """One encrypted vector per update, encrypted with the public key."""

    def __init__(self, workload: Workload) -> None:
        super().__init__("tenseal", workload, modulus_bits=sum(_PRIME_BITS), lanes=None)
        self._scale = workload.fixed_point.scale
        self._context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS,
            poly_modulus_degree=_DEGREE,
            coeff_mod_bit_sizes=list(_PRIME_BITS),
            n_threads=workload.threads,
        )
        self._context.global_scale = _SCALE
        self._server_context = tenseal.context_from(
            self._context.serialize(save_secret_key=False), n_threads=workload.threads
        )

    def prepare(self, update: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Leave floats as they are; CKKS takes them."""
        return update

    def seal(self, update: npt.NDArray[np.float64]) -> bytes:
        """Encrypt and serialise."""
        encrypted = tenseal.ckks_vector(self._context, update.tolist())
        return bytes(encrypted.serialize())

    def load(self, upload: bytes) -> Any:
        """Deserialise under the context without a secret key."""
        return tenseal.ckks_vector_from(self._server_context, upload)

    def add(self, x: Any, y: Any) -> Any:
        """Add two encrypted vectors."""
        return x + y

    def dump(self, total: Any) -> bytes:
        """Serialise a sum."""
        return bytes(total.serialize())

    def open(self, download: bytes) -> npt.NDArray[np.int64]:
        """Deserialise, decrypt and round to the fixed point."""
        opened = tenseal.ckks_vector_from(self._context, download).decrypt()
        scaled = np.array(opened) * self._scale
        return np.rint(scaled).astype(np.int64)


SYSTEMS: Final[tuple[SystemFactory, ...]] = (SharedKeyCKKS,)
