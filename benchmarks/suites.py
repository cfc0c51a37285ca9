"""Our own suites, measured through the roles of the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar, cast

import numpy as np
import numpy.typing as npt

from benchmarks.meter import Meter
from benchmarks.system import System
from benchmarks.workload import Workload
from hre_torch.crypto.signatures import SigningKey
from hre_torch.errors import EncodingError
from hre_torch.protocol.data_service import DataServiceProvider
from hre_torch.protocol.envelope import Envelope, Header, decode
from hre_torch.protocol.key_transform import KeyTransformServer
from hre_torch.protocol.messages import (
    ReleaseOrder,
    TransformReply,
    TransformRequest,
    Upload,
)
from hre_torch.protocol.participant import LearningParticipant
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import (
    DATA_SERVICE,
    KEY_TRANSFORM,
    Roster,
    Task,
    TaskConfig,
    sign_task,
    state_digest,
)
from hre_torch.protocol.workers import Workers

__all__ = ["SuiteSystem"]

H = TypeVar("H", bound=Header)

_FEWEST: Final = 2
"""Participants per round: the fewest that make one addition."""


class SuiteSystem(System):
    """Any registered suite: both servers and all participants, bytes between them.

    In a round everybody uploads once, one release sums it, everybody downloads it:

    1. `encrypt`: a participant seals an update.
    2. `check`: the DSP parses an upload, checks and decodes it.
    3. `add`: the DSP adds one upload to another.
    4. `first_phase`: the DSP begins the key transform for the release's first
       recipient; `first_phase_cached`: for each further one.
    5. `second_phase`: the KTS transforms.
    6. `finish`: the DSP turns the reply into a download.
    7. `decrypt`: the recipient checks and opens it.

    Args:
        suite: name in the registry of suites.
        workload: the work.
    """

    def __init__(self, suite: str, workload: Workload) -> None:
        chosen = SUITES.get(suite)
        count = max(_FEWEST, chosen.least_contributions)
        names = [f"p{index}" for index in range(count)]
        operator = SigningKey.generate()
        secrets, roster = chosen.setup(
            names, workload.parameters, operator=operator.public
        )
        # A suite without a joint key encrypts nothing.
        lanes = len(roster.joint_key) or None
        super().__init__(
            suite,
            workload,
            modulus_bits=workload.parameters.modulus_bits if lanes else None,
            lanes=lanes,
            uploads=count,
        )
        self._released = np.zeros(workload.values, dtype=np.int64)
        config = _config(suite, workload, roster, state_digest(self._released))
        self._task = Task(
            config, roster, workload.parameters, sign_task(config, operator)
        )
        self._most_bytes = chosen.max_message_bytes(self._task)
        self._workers = Workers.processes(workload.threads)
        self._data_service = DataServiceProvider(
            self._task, secrets[DATA_SERVICE], self._workers
        )
        self._key_transform = KeyTransformServer(
            self._task, secrets[KEY_TRANSFORM], self._workers
        )
        self._participants = [
            LearningParticipant(self._task, secrets[name], self._workers)
            for name in names
        ]

    def round(
        self, updates: Sequence[npt.NDArray[np.int32]], meter: Meter
    ) -> list[npt.NDArray[np.int64]]:
        """Play the phases that the class docstring lists, in that order."""
        digest = state_digest(self._released)
        for participant, update in zip(self._participants, updates, strict=True):
            with meter("encrypt") as reading:
                upload = participant.seal(update, participant.version, digest).encode()
            reading.bytes = len(upload)
            self._admit(upload, meter)
        self._release(len(updates), len(upload), meter)
        first, *others = self._participants
        requests = [self._begin(first, meter, "first_phase")]
        requests += [self._begin(p, meter, "first_phase_cached") for p in others]
        opened = [
            self._download(participant, request, meter)
            for participant, request in zip(self._participants, requests, strict=True)
        ]
        self._released += opened[0]
        return opened

    def close(self) -> None:
        """End the worker processes."""
        self._workers.close()

    def _admit(self, data: bytes, meter: Meter) -> None:
        with meter("check") as reading:
            deposit = self._data_service.admit(self._decode(data, Upload))
        reading.bytes = len(data)
        self._data_service.confirm(self._key_transform.deposit(deposit))

    def _release(self, uploads: int, upload_bytes: int, meter: Meter) -> None:
        # Everybody has uploaded, so there is something to release.
        order = cast("Envelope[ReleaseOrder]", self._data_service.propose())
        release = self._key_transform.approve(order)
        with meter("add", times=uploads - 1) as reading:
            self._data_service.record(release)
        reading.bytes = upload_bytes

    def _begin(
        self, participant: LearningParticipant, meter: Meter, phase: str
    ) -> bytes:
        server, name = self._data_service, participant.name
        # One release is new to everybody, the newest.
        releases = cast("tuple[int, int]", server.next_range(name, participant.version))
        with meter(phase) as reading:
            request = server.begin(name, *releases).encode()
        reading.bytes = len(request)
        return request

    def _download(
        self, participant: LearningParticipant, request: bytes, meter: Meter
    ) -> npt.NDArray[np.int64]:
        with meter("second_phase") as reading:
            reply = self._key_transform.transform(
                self._decode(request, TransformRequest)
            ).encode()
        reading.bytes = len(reply)
        with meter("finish") as reading:
            download = self._data_service.finish(
                self._decode(reply, TransformReply)
            ).encode()
        reading.bytes = len(download)
        with meter("decrypt") as reading:
            opened = participant.open(download)
        reading.bytes = len(download)
        if opened.values is None:
            raise EncodingError(
                f"suite {self.name!r} rejected a release that should be sound; its "
                "times mean nothing"
            )
        return opened.values

    def _decode(self, data: bytes, kind: type[H]) -> Envelope[H]:
        return decode(data, kind, cfg=self._task.cfg, max_bytes=self._most_bytes)


def _config(
    suite: str, workload: Workload, roster: Roster, initial: bytes
) -> TaskConfig:
    return TaskConfig(
        suite=suite,
        profile=workload.profile,
        parameters_digest=workload.parameters.digest,
        fraction_bits=workload.fraction_bits,
        value_bits=workload.value_bits,
        max_additions=workload.max_additions,
        min_contributions=len(roster.participants),
        pending_limit=1,
        combine="sum",
        n_params=workload.values,
        layout_digest=b"",
        initial_digest=initial,
        roster_digest=roster.digest(),
    )
