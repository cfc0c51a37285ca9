"""The subtraction that a restored KTS made possible: two lists, one update between."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from hre_torch.errors import AggregatorError, HREError
from hre_torch.optim.federation import Federation
from hre_torch.participant.participant import LearningParticipant
from hre_torch.protocol.messages import ReleaseOrder
from hre_torch.protocol.wire import seal
from hre_torch.protocol.workers import Workers
from hre_torch.servers.data_service import DataServiceProvider
from hre_torch.servers.key_transform import KeyTransformServer

NAMES = ("alice", "bob", "carol", "mallory")
N_VALUES = 6


class Stage:
    """A DSP that conspires with mallory, and a KTS that is honest and forgetful."""

    def __init__(self) -> None:
        federation = Federation.local(
            torch.nn.Linear(2, 2),
            participants=NAMES,
            suite="gated",
            profile="toy-insecure",
            min_contributions=3,
            combine="sum",
        )
        with federation:
            self.task, self.secrets = federation.task, federation._secrets
        self.dsp = self.role(DataServiceProvider, "dsp")
        self.kts = self.role(KeyTransformServer, "kts")
        self.people = {name: self.person(name) for name in NAMES}
        self.updates = {
            name: np.arange(N_VALUES, dtype=np.int32) * (index + 1)
            for index, name in enumerate(NAMES)
        }

    def role(self, kind, name, state=None):
        if state is not None:
            encoded = msgspec.msgpack.encode(state)
            state = msgspec.msgpack.decode(encoded, type=type(state))
        return kind(self.task, self.secrets[name], Workers(), state=state)

    def person(self, name):
        return LearningParticipant(self.task, self.secrets[name], Workers())

    def seal(self, name):
        digest = self.task.config.initial_digest
        version = self.people[name].version
        said = digest if version == 0 else bytes([version]) * 32
        return self.people[name].seal(self.updates[name], version, said)

    def accept(self, upload):
        self.dsp.confirm(self.kts.deposit(self.dsp.admit(upload)))

    def release(self, uploads):
        """Have a list signed, whatever an honest DSP would list."""
        total = self.dsp._sum([upload.digest for upload in uploads])
        order = ReleaseOrder(
            cfg=self.task.cfg,
            sender="dsp",
            version=1,
            uploads=tuple(upload.digest for upload in uploads),
            commitment=self.dsp._cipher.commitment(total),
        )
        self.dsp.record(self.kts.approve(seal(order, self.secrets["dsp"].signing)))

    def open(self, participant):
        request = self.dsp.begin(participant.name, 1, 1)
        download = self.dsp.finish(self.kts.transform(request))
        return participant.open(download.encode()).values

    def restore(self, kts):
        """Sign a list, have it opened by all, put the KTS back to before it.

        Two honest uploads from after that release reach the KTS as well. The DSP goes
        back of its own will, and needs no copy.
        """
        self.uploads = {name: self.seal(name) for name in NAMES}
        for upload in self.uploads.values():
            self.accept(upload)
        dsp_before, kts_before = self.dsp.state(), self.kts.state()
        self.release([self.uploads[name] for name in ("alice", "bob", "carol")])
        self.first = self.open(self.people["mallory"])
        for name in ("alice", "bob", "carol"):
            self.open(self.people[name])
        newer = [self.seal(name) for name in ("alice", "bob")]
        self.dsp = self.role(DataServiceProvider, "dsp", dsp_before)
        self.kts = self.role(kts, "kts", kts_before)
        for upload in newer:
            with pytest.raises(HREError):
                self.kts.deposit(self.dsp._deposit(upload))

    def subtract(self):
        """Return what mallory takes for carol's update."""
        self.release([self.uploads[name] for name in ("alice", "bob", "mallory")])
        second = self.open(self.person("mallory"))
        return self.first - second + self.updates["mallory"]


class DeafToHistory(KeyTransformServer):
    """A KTS that ignores which releases an upload's sender knows."""

    def _hear(self, upload):
        pass


def test_a_restored_kts_gives_no_second_sum_to_subtract_from_the_first():
    stage = Stage()
    stage.restore(KeyTransformServer)
    with pytest.raises(AggregatorError, match="restored from an older copy: 1 release"):
        stage.subtract()


def test_without_that_rule_the_difference_is_one_participants_exact_update():
    stage = Stage()
    stage.restore(DeafToHistory)
    assert (stage.subtract() == stage.updates["carol"]).all()
