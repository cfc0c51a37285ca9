"""Suite `phong`: one Paillier key that all participants share, the paper's precursor.

L. T. Phong et al., "Privacy-Preserving Deep Learning via Additively Homomorphic
Encryption", IEEE TIFS 13(5), 2018. The DSP adds what it cannot open, but every
participant can open every other participant's upload. Kept as a baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.dcr.shared_key import SharedKey, add_ciphertexts
from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.encoding.packing import Packing
from hre_torch.errors import InvalidElementError, MessageError, UnsupportedError
from hre_torch.protocol.roster import (
    DATA_SERVICE,
    KEY_TRANSFORM,
    KeyCard,
    Role,
    Roster,
    Secret,
)
from hre_torch.protocol.suite import (
    Body,
    DataServiceCipher,
    KeyTransformCipher,
    ParticipantCipher,
    Parts,
    Plan,
    SealedBody,
    Suite,
    Workload,
    new_identity,
)
from hre_torch.protocol.suites.plain import LedgerOnly
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

__all__ = ["SUITE", "PhongSuite"]

Ciphertexts = list[int]


class _Layout:
    """Packing under the shared modulus, and ciphertexts as fixed-width octets."""

    def __init__(self, task: Task) -> None:
        self.n = int.from_bytes(task.roster.joint_key[0], "big")
        self.n_values = task.config.n_sealed
        self.packing = Packing(
            modulus=self.n,
            value_bits=task.config.value_bits,
            max_additions=task.config.max_additions,
        )
        self.plaintexts = self.packing.plaintexts(self.n_values)
        self.width = 2 * len(task.roster.joint_key[0])

    def encode(self, ciphertexts: Ciphertexts) -> Parts:
        return (b"".join(c.to_bytes(self.width, "big") for c in ciphertexts),)

    def decode(self, parts: Parts) -> Ciphertexts:
        expected = self.plaintexts * self.width
        if [len(part) for part in parts] != [expected]:
            raise MessageError(
                f"expected one part of {expected} octets, got "
                f"{[len(part) for part in parts]}"
            )
        ciphertexts = [
            int.from_bytes(parts[0][start : start + self.width], "big")
            for start in range(0, expected, self.width)
        ]
        if not all(0 < c < self.n * self.n for c in ciphertexts):
            raise InvalidElementError("a ciphertext lies outside 0 < c < n^2")
        return ciphertexts


class _Participant(ParticipantCipher):
    def __init__(self, task: Task, secret: Secret, workers: Workers) -> None:
        self._layout = _Layout(task)
        self._key = SharedKey.from_bytes(secret.material)
        self._workers = workers

    def encrypt(self, values: npt.NDArray[np.int32]) -> SealedBody:
        plaintexts = self._layout.packing.pack(values)
        ciphertexts = self._workers.map(_encrypt, plaintexts, self._key.to_bytes())
        return SealedBody(self._layout.encode(ciphertexts))

    def decrypt(self, parts: Parts, count: int) -> npt.NDArray[np.int64]:
        layout = self._layout
        plaintexts = self._workers.map(
            _decrypt, layout.decode(parts), self._key.to_bytes()
        )
        return layout.packing.unpack(plaintexts, layout.n_values, count)


class _DataService(DataServiceCipher[Ciphertexts]):
    def __init__(self, task: Task) -> None:
        self._layout = _Layout(task)

    def load(self, body: Body) -> Ciphertexts:
        return self._layout.decode(body.parts)

    def add(self, totals: Sequence[Ciphertexts]) -> Ciphertexts:
        n = self._layout.n
        return reduce(lambda x, y: add_ciphertexts(x, y, n), totals)

    def begin(self, total: Ciphertexts, recipient: str) -> tuple[Parts, Ciphertexts]:
        return (), total

    def finish(self, kept: Ciphertexts, reply: Parts) -> Parts:
        return self._layout.encode(kept)

    def restore(self, parts: Parts) -> Ciphertexts:
        return self._layout.decode(parts)

    def dump(self, total: Ciphertexts) -> Parts:
        return self._layout.encode(total)


class PhongSuite(Suite):
    """Phong et al. (2018): fellow participants can open everything."""

    name = "phong"
    baseline = True
    protects = (
        "against the servers only, if no participant helps them: all participants "
        "share one private key, so each can open every other's upload"
    )

    def plan(self, parameters: Parameters, workload: Workload) -> Plan:
        """Predict cost: one full-size power per plaintext, two halves to open."""
        packing = Packing(
            modulus=int(parameters.n),
            value_bits=workload.value_bits,
            max_additions=workload.max_additions,
        )
        plaintexts = packing.plaintexts(workload.n_values)
        size = plaintexts * parameters.element_bytes
        power = parameters.modulus_bits * 6 // 5
        return Plan(
            plaintexts=plaintexts,
            upload_bytes=size,
            download_bytes=size,
            server_bytes=0,
            multiplications={
                "encrypt": plaintexts * power,
                "open": plaintexts * power // 4,
            },
            unshared={"add": plaintexts},
        )

    def keygen(
        self,
        role: Role,
        name: str,
        parameters: Parameters,
        entropy: Entropy = SYSTEM_ENTROPY,
    ) -> tuple[Secret, KeyCard]:
        """Make a signing key; participants get the shared key from `setup` only.

        Raises:
            UnsupportedError: for a participant, whose key cannot be made alone.
        """
        if role == "participant":
            raise UnsupportedError(
                "suite 'phong' has one key for all participants, made by setup(); a "
                "participant cannot make its own: use 'paper'"
            )
        return new_identity(role, name, self.name, (), b"", entropy)

    def joint_key(
        self, secret: Secret, own: KeyCard, other: KeyCard, parameters: Parameters
    ) -> tuple[bytes, ...]:
        """Refuse: the servers of this suite have no keys to join."""
        raise UnsupportedError(
            "the servers of suite 'phong' hold no keys; its key comes from setup()"
        )

    def setup(
        self,
        names: Sequence[str],
        parameters: Parameters,
        *,
        operator: bytes,
        entropy: Entropy = SYSTEM_ENTROPY,
    ) -> tuple[dict[str, Secret], Roster]:
        """Make one Paillier key of the profile's size and hand it to everybody."""
        shared = SharedKey.generate(parameters.modulus_bits, entropy=entropy)
        servers = {
            DATA_SERVICE: self.keygen("dsp", DATA_SERVICE, parameters, entropy),
            KEY_TRANSFORM: self.keygen("kts", KEY_TRANSFORM, parameters, entropy),
        }
        members = {
            name: new_identity(
                "participant", name, self.name, (), shared.to_bytes(), entropy
            )
            for name in names
        }
        modulus = shared.n.to_bytes(-(-shared.n.bit_length() // 8), "big")
        roster = Roster(
            operator,
            servers[DATA_SERVICE][1],
            servers[KEY_TRANSFORM][1],
            tuple(members[name][1] for name in names),
            (modulus,),
        )
        return {n: secret for n, (secret, _) in (servers | members).items()}, roster

    def upload_sizes(self, task: Task) -> tuple[int, ...]:
        """One part: the ciphertexts."""
        layout = _Layout(task)
        return (layout.plaintexts * layout.width,)

    def participant(
        self, task: Task, secret: Secret, workers: Workers
    ) -> ParticipantCipher:
        """Return the participant's half."""
        return _Participant(task, secret, workers)

    def data_service(
        self, task: Task, secret: Secret, workers: Workers
    ) -> DataServiceCipher[Any]:
        """Return the DSP's half."""
        return _DataService(task)

    def key_transform(
        self, task: Task, secret: Secret, workers: Workers
    ) -> KeyTransformCipher[None]:
        """Return a KTS that only counts."""
        return LedgerOnly()


# A worker process meets the same key in every chunk; checking it is not cheap.
_shared_key = lru_cache(maxsize=4)(SharedKey.from_bytes)


def _encrypt(plaintext: int, key: bytes) -> int:
    return _shared_key(key).encrypt([plaintext])[0]


def _decrypt(ciphertext: int, key: bytes) -> int:
    return _shared_key(key).decrypt([ciphertext])[0]


SUITE: Final = PhongSuite()
