"""Suite `paper`: the homomorphic re-encryption of Tang et al. (2019), with lanes.

The joint key is of Diffie-Hellman type, `PK_j = g^(a_j b_j)`; the DSP runs the first
phase of re-encryption (FPRE), the KTS the second (SPRE), and each recipient opens with
its own `k_j`. Both servers are assumed to follow the protocol and not to collude with
anybody; for anything stronger use `gated`.

The text of FPRE and SPRE could not be had: the exponents `rho`, `tau`, `sigma` are our
reconstruction from the scheme of Ding, Yan and Deng (Information Sciences 409-410,
2017), on which the paper builds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gmpy2 import mpz

from hre_torch.crypto.dcr import encryption, reencryption
from hre_torch.crypto.dcr.encryption import Ciphertext, Exponents, joint_keys
from hre_torch.crypto.dcr.fixed_base import (
    JOINT_WINDOW,
    RECIPIENT_WINDOW,
    SERVER_WINDOW,
    recipient_bytes,
    table_bytes,
)
from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.dcr.reencryption import FirstPhase, SecondPhase
from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.errors import MessageError
from hre_torch.protocol.roster import KeyCard, Role, Secret
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
from hre_torch.protocol.suites.blocks import (
    BlockLayout,
    LaneTask,
    decode_exponents,
    decode_keys,
    encode_exponents,
    encode_keys,
)
from hre_torch.protocol.suites.plain import LedgerOnly
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

__all__ = ["SUITE", "PaperSuite"]


class _Participant(ParticipantCipher):
    def __init__(self, task: Task, secret: Secret, workers: Workers) -> None:
        self._keys = LaneTask(task)
        self._keys.warm_tables((task.parameters.g, *self._keys.joint))
        self._exponents = decode_exponents(secret.material, task.parameters)
        self._n_values = task.config.n_sealed
        self._workers = workers

    def encrypt(self, values: npt.NDArray[np.int32]) -> SealedBody:
        keys = self._keys
        blocks = self._workers.map(
            encryption.encrypt,
            keys.layout.split(keys.packing.pack(values)),
            keys.joint,
            keys.parameters,
        )
        return SealedBody(keys.layout.encode_ciphertexts(blocks))

    def decrypt(self, parts: Parts, count: int) -> npt.NDArray[np.int64]:
        keys = self._keys
        heads, lanes = keys.layout.decode(parts, what="a download")
        blocks = [SecondPhase(U=u, V=v) for u, v in zip(lanes, heads, strict=True)]
        opened = self._workers.map(
            reencryption.open_block, blocks, self._exponents, keys.parameters
        )
        plaintexts = [plaintext for block in opened for plaintext in block]
        return keys.packing.unpack(plaintexts, self._n_values, count)


@dataclass(slots=True)
class PaperSum:
    """A sum of uploads, and `T'^a_j` once a release of it has been begun.

    Attributes:
        blocks: the ciphertexts.
        head_powers: per block `T'^a_j` of its lanes; empty before the first use.
    """

    blocks: list[Ciphertext]
    head_powers: list[tuple[mpz, ...]] = field(default_factory=list, repr=False)


class _DataService(DataServiceCipher[PaperSum]):
    def __init__(self, task: Task, secret: Secret, workers: Workers) -> None:
        self._keys = LaneTask(task)
        self._exponents = decode_exponents(secret.material, task.parameters)
        self._public = self._keys.decode(task.roster.data_service.public, "the DSP")
        shared = (task.parameters.g, *self._keys.joint)
        self._keys.warm_tables_of(workers, shared)
        self._keys.warm_tables_of(workers, self._public, SERVER_WINDOW)
        self._workers = workers

    def load(self, body: Body) -> PaperSum:
        return self.restore(body.parts)

    def restore(self, parts: Parts) -> PaperSum:
        return PaperSum(self._keys.layout.ciphertexts(parts, what="an upload"))

    def add(self, totals: Sequence[PaperSum]) -> PaperSum:
        parameters = self._keys.parameters
        return PaperSum(
            [
                reduce(lambda x, y: encryption.add(x, y, parameters), blocks)
                for blocks in zip(*(total.blocks for total in totals), strict=True)
            ]
        )

    def merge(self, releases: Sequence[PaperSum]) -> PaperSum:
        for release in releases:
            self._cache_head_powers(release)
        merged = super().merge(releases)
        if merged is releases[0]:
            return merged
        n_squared = self._keys.parameters.n_squared
        merged.head_powers = [
            tuple(
                reduce(lambda x, y: x * y % n_squared, powers)
                for powers in zip(*blocks, strict=True)
            )
            for blocks in zip(*(r.head_powers for r in releases), strict=True)
        ]
        return merged

    def begin(self, total: PaperSum, recipient: str) -> tuple[Parts, None]:
        self._cache_head_powers(total)
        keys = self._keys
        phases = self._workers.map(
            _first_phase,
            list(zip(total.blocks, total.head_powers, strict=True)),
            self._public,
            keys.joint,
            keys.recipient(recipient),
            keys.parameters,
        )
        heads, masked = keys.layout.encode(
            [phase.Z for phase in phases], [phase.X for phase in phases]
        )
        _, powers = keys.layout.encode([], [phase.Y for phase in phases])
        return (heads, masked, powers), None

    def finish(self, kept: None, reply: Parts) -> Parts:
        self._keys.layout.decode(reply, what="a transform reply")
        return reply

    def dump(self, total: PaperSum) -> Parts:
        return self._keys.layout.encode_ciphertexts(total.blocks)

    def _cache_head_powers(self, release: PaperSum) -> None:
        if not release.head_powers:
            release.head_powers = self._workers.map(
                _head_powers, release.blocks, self._exponents, self._keys.parameters
            )


class _KeyTransform(LedgerOnly):
    def __init__(self, task: Task, secret: Secret, workers: Workers) -> None:
        self._keys = LaneTask(task)
        self._exponents = decode_exponents(secret.material, task.parameters)
        self._keys.warm_tables_of(workers, (task.parameters.g,))
        self._workers = workers

    def transform(self, total: None, request: Parts, recipient: str) -> Parts:
        keys = self._keys
        if len(request) != 3:
            raise MessageError(f"a transform request has 3 parts, not {len(request)}")
        heads, masked = keys.layout.decode(request[:2], what="a transform request")
        powers = keys.layout.split(
            keys.layout.decode_lanes(request[2], what="a transform request")
        )
        phases = self._workers.map(
            reencryption.second_phase,
            [FirstPhase(*block) for block in zip(masked, powers, heads, strict=True)],
            self._exponents,
            keys.recipient(recipient),
            keys.parameters,
        )
        return keys.layout.encode([phase.V for phase in phases], [p.U for p in phases])


class PaperSuite(Suite):
    """Tang et al. (2019) for servers that follow the protocol."""

    name = "paper"
    protects = (
        "against the DSP alone, the KTS alone and whoever listens, if both servers "
        "follow the protocol and collude with nobody"
    )

    def plan(self, parameters: Parameters, workload: Workload) -> Plan:
        """Predict cost; multiplications are mod n^2, tables as `fixed_base` makes."""
        layout = BlockLayout.of_workload(parameters, workload)
        heads, lanes = layout.part_sizes
        bits, plaintexts = parameters.exponent_bits, layout.plaintexts
        joint, server, small = (
            -(-bits // window)
            for window in (JOINT_WINDOW, SERVER_WINDOW, RECIPIENT_WINDOW)
        )
        used = min(parameters.lanes, plaintexts)
        shared = table_bytes(parameters, JOINT_WINDOW) * (used + 1)
        recipients = recipient_bytes(parameters, used, workload.participants)
        return Plan(
            plaintexts=plaintexts,
            upload_bytes=heads + lanes,
            download_bytes=heads + lanes,
            server_bytes=heads + 2 * lanes,
            multiplications={
                "encrypt": (plaintexts + layout.blocks) * joint + plaintexts,
                "first_phase": plaintexts
                * (joint + server + small + _ONE_BASE * bits // 256),
                "second_phase": plaintexts * (small + _POWMOD * bits // 256),
                "open": plaintexts * _ONE_BASE * bits // 256,
            },
            unshared={"add": plaintexts + layout.blocks},
            table_bytes={
                "participant": shared,
                "dsp": shared
                + table_bytes(parameters, SERVER_WINDOW) * used
                + recipients,
                "kts": table_bytes(parameters, JOINT_WINDOW) + recipients,
            },
            recipient_bytes=recipient_bytes(parameters, used, 1),
        )

    def keygen(
        self,
        role: Role,
        name: str,
        parameters: Parameters,
        entropy: Entropy = SYSTEM_ENTROPY,
    ) -> tuple[Secret, KeyCard]:
        """Make one exponent per lane (`a_j`, `b_j` or `k_j`) and a signing key."""
        exponents = Exponents.generate(parameters, entropy=entropy)
        public = encode_keys(exponents.public(parameters), parameters)
        material = encode_exponents(exponents, parameters)
        return new_identity(role, name, self.name, public, material, entropy)

    def joint_key(
        self, secret: Secret, own: KeyCard, other: KeyCard, parameters: Parameters
    ) -> tuple[bytes, ...]:
        """Return `PK_j = (g^y_j)^x_j`, from the own `x_j` and the other's `g^y_j`."""
        exponents = decode_exponents(secret.material, parameters)
        public = decode_keys(other.public, parameters, whose=other.name)
        joint = joint_keys(exponents, public, parameters)
        return encode_keys(joint, parameters)

    def upload_sizes(self, task: Task) -> tuple[int, ...]:
        """Heads, then lanes."""
        return LaneTask(task).layout.part_sizes

    def participant(
        self, task: Task, secret: Secret, workers: Workers
    ) -> ParticipantCipher:
        """Return the participant's half."""
        return _Participant(task, secret, workers)

    def data_service(
        self, task: Task, secret: Secret, workers: Workers
    ) -> DataServiceCipher[Any]:
        """Return the DSP's half."""
        return _DataService(task, secret, workers)

    def key_transform(
        self, task: Task, secret: Secret, workers: Workers
    ) -> KeyTransformCipher[None]:
        """Return the KTS's half."""
        return _KeyTransform(task, secret, workers)


_POWMOD: Final = 310
"""Multiplications of one 256-bit power of a base that is used once, in GMP."""
_ONE_BASE: Final = 60
"""The same per lane where 16 lanes share the base (`powers_of_one_base`)."""


def _head_powers(
    block: Ciphertext, exponents: Exponents, parameters: Parameters
) -> tuple[mpz, ...]:
    return reencryption.head_powers(block.head, exponents, len(block.lanes), parameters)


def _first_phase(
    block: tuple[Ciphertext, tuple[mpz, ...]],
    public: Sequence[mpz],
    joint: Sequence[mpz],
    recipient: Sequence[mpz],
    parameters: Parameters,
) -> FirstPhase:
    return reencryption.first_phase(*block, public, joint, recipient, parameters)


SUITE: Final = PaperSuite()
