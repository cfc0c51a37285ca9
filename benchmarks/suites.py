"""Our own suites, measured through the roles of the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from benchmarks.key_transform import ReplayedKeyTransform
from benchmarks.meter import Meter
from benchmarks.system import System
from benchmarks.weights import Weights
from benchmarks.workload import Workload
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import EncodingError
from hre_torch.participant.participant import LearningParticipant
from hre_torch.protocol.messages import (
    Receipt,
    Release,
    ReleaseOrder,
    TransformReply,
    Upload,
)
from hre_torch.protocol.roster import DATA_SERVICE, KEY_TRANSFORM, Roster
from hre_torch.protocol.suite import Suite
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task, TaskConfig, sign_task
from hre_torch.protocol.task_options import TaskOptions
from hre_torch.protocol.vectors import state_digest
from hre_torch.protocol.wire import Envelope, Header, decode
from hre_torch.protocol.workers import Workers
from hre_torch.servers.data_service import DataServiceProvider

__all__ = ["SuiteSystem", "task_config"]

H = TypeVar("H", bound=Header)


class SuiteSystem(System):
    """Any registered suite: both servers and all participants, bytes between them.

    In a round everybody uploads once, one release sums it, everybody downloads it:

    1. `client_push`: a participant quantises, seals (`encrypt`) and encodes an update.
    2. `dsp_push`, `kts_push`: the DSP decodes, checks (`check`) and stores the upload
       and forwards what the KTS needs of it; the KTS checks, logs and signs a receipt;
       the DSP acknowledges.
    3. `dsp_release`, `kts_release`: the DSP sums (`add`, per addition) and proposes;
       the KTS checks and signs; the DSP records.
    4. `dsp_recipient`, `kts_recipient`: the DSP begins a key transform (`first_phase`),
       the KTS answers (`second_phase`), the DSP makes the download of it (`finish`).
       What a release caches is not there yet for its first recipient:
       `dsp_recipient_first`, `kts_recipient_first`. Of the inner phases, those for
       further recipients are called `first_phase_cached` and `second_phase_cached`.
    5. `client_pull`: the recipient checks and opens (`decrypt`) the download and loads
       the new weights into parameters.

    The phases of the KTS are put off to the replay: see `ReplayedKeyTransform`.

    Args:
        suite: name in the registry of suites.
        workload: the work.
    """

    def __init__(self, suite: str, workload: Workload) -> None:
        chosen = SUITES.get(suite)
        count = max(workload.participants, chosen.least_contributions)
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
        self._weights = {
            name: Weights(workload.values, workload.fixed_point) for name in names
        }
        self._digest = state_digest(self._weights[names[0]].released)
        config = task_config(chosen, workload, roster, self._digest)
        self._task = Task(
            config, roster, workload.parameters, sign_task(config, operator)
        )
        self._most_bytes = chosen.max_message_bytes(self._task)
        self._workers = Workers.processes(workload.threads)
        self._data_service = DataServiceProvider(
            self._task, secrets[DATA_SERVICE], self._workers, observe=self._observe
        )
        self._key_transform = ReplayedKeyTransform(
            self._task,
            secrets[KEY_TRANSFORM],
            self._workers,
            most_bytes=self._most_bytes,
        )
        self._participants = [
            LearningParticipant(self._task, secrets[name], self._workers)
            for name in names
        ]
        self._meter = Meter()

    def round(
        self, updates: Sequence[npt.NDArray[np.float64]], meter: Meter
    ) -> list[npt.NDArray[np.int64]]:
        """Play the phases that the class docstring lists, in that order."""
        self._meter = meter
        self._key_transform.begin_round()
        for participant, update in zip(self._participants, updates, strict=True):
            self._admit(self._push(participant, update))
        self._release()
        first, *others = self._participants
        opened = [self._pull(first, self._transform(first, "_first", ""))]
        for each in others:
            opened.append(self._pull(each, self._transform(each, "", "_cached")))
        return opened

    def replay(self, meter: Meter) -> None:
        """Measure the KTS on the messages of a round."""
        self._key_transform.replay(meter)

    def close(self) -> None:
        """End the worker processes."""
        self._workers.close()

    def _observe(self, phase: str) -> AbstractContextManager[Any]:
        """Measure what the DSP does inside another phase and no message brackets."""
        if phase != "add":
            return nullcontext()
        return self._meter("add", times=self.uploads - 1)

    def _push(
        self, participant: LearningParticipant, update: npt.NDArray[np.float64]
    ) -> bytes:
        base = participant.version, self._digest
        with self._meter("client_push") as push:
            values = self._weights[participant.name].quantise(update)
            with self._meter("encrypt") as inner:
                upload = participant.seal(values, *base).encode()
        push.bytes = inner.bytes = len(upload)
        return upload

    def _admit(self, upload: bytes) -> None:
        with self._meter("dsp_push") as dsp:
            with self._meter("check") as inner:
                admitted = self._data_service.admit(self._decode(upload, Upload))
            deposit = admitted.encode()
        inner.bytes = len(upload)
        receipt = self._key_transform.deposit(deposit)
        with self._meter("dsp_push", resume=dsp):
            ack = self._data_service.confirm(self._decode(receipt, Receipt)).encode()
        dsp.bytes = len(upload) + len(deposit) + len(receipt) + len(ack)

    def _release(self) -> None:
        with self._meter("dsp_release") as dsp:
            # Everybody has uploaded, so there is something to release.
            proposed = cast("Envelope[ReleaseOrder]", self._data_service.propose())
            order = proposed.encode()
        release = self._key_transform.approve(order)
        with self._meter("dsp_release", resume=dsp):
            self._data_service.record(self._decode(release, Release))
        dsp.bytes = len(order) + len(release)

    def _transform(
        self, participant: LearningParticipant, role_suffix: str, phase_suffix: str
    ) -> bytes:
        server, name = self._data_service, participant.name
        # One release is new to everybody, the newest.
        releases = cast("tuple[int, int]", server.next_range(name, participant.version))
        meter = self._meter
        with (
            meter(f"dsp_recipient{role_suffix}") as dsp,
            meter(f"first_phase{phase_suffix}") as inner,
        ):
            request = server.begin(name, *releases).encode()
        inner.bytes = len(request)
        reply = self._key_transform.transform(
            request, f"kts_recipient{role_suffix}", f"second_phase{phase_suffix}"
        )
        with (
            meter(f"dsp_recipient{role_suffix}", resume=dsp),
            meter("finish") as inner,
        ):
            download = server.finish(self._decode(reply, TransformReply)).encode()
        inner.bytes = len(download)
        dsp.bytes = len(request) + len(reply) + len(download)
        return download

    def _pull(
        self, participant: LearningParticipant, download: bytes
    ) -> npt.NDArray[np.int64]:
        weights = self._weights[participant.name]
        with self._meter("client_pull") as pull:
            with self._meter("decrypt") as inner:
                opened = participant.open(download)
            if opened.values is None:
                raise EncodingError(
                    f"suite {self.name!r} rejected a release that should be sound; its "
                    "times mean nothing"
                )
            weights.apply(opened.values)
            # What the next upload will be based on.
            self._digest = state_digest(weights.released)
        pull.bytes = inner.bytes = len(download)
        return opened.values

    def _decode(self, data: bytes, kind: type[H]) -> Envelope[H]:
        return decode(data, kind, cfg=self._task.cfg, max_bytes=self._most_bytes)


def task_config(
    suite: Suite, workload: Workload, roster: Roster, initial: bytes
) -> TaskConfig:
    """Return a task for this workload in which a release holds one upload of each.

    Args:
        suite: whose defaults it takes.
        workload: the work.
        roster: everybody's cards.
        initial: digest of the initial weights.
    """
    options = TaskOptions(
        suite=suite.name,
        profile=workload.profile,
        fraction_bits=workload.fraction_bits,
        value_bits=workload.value_bits,
        min_contributions=len(roster.participants),
        combine="sum",
    )
    return options.config(
        roster,
        workload.parameters,
        n_params=workload.values,
        layout_digest=b"",
        initial_digest=initial,
    )
