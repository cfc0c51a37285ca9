"""What the DSP keeps of snapshots, and for how long."""

from __future__ import annotations

import numpy as np
import pytest

from hre_torch.aggregators.services.relay import SnapshotRelay
from hre_torch.protocol.envelope import seal
from hre_torch.protocol.participant import LearningParticipant
from hre_torch.protocol.requests import Snapshot, SnapshotQuery, SnapshotRequest
from hre_torch.protocol.workers import Workers
from tests.aggregators.contract import N_VALUES, federate

STALENESS = 5
LATE, *OTHERS = ("p0", "p1", "p2")


class Scene:
    """A relay, and whoever comes to it."""

    def __init__(self, federation) -> None:
        self.task = federation.task
        self.secrets = federation._secrets
        self.relay = SnapshotRelay(self.task, self.secrets["dsp"])

    def upload(self, name: str, base: int) -> None:
        participant = LearningParticipant(self.task, self.secrets[name], Workers())
        values = np.ones(N_VALUES, dtype=np.int32)
        self.relay.witness(participant.seal(values, base, bytes(32)))

    def ask(self) -> bytes:
        header = SnapshotRequest(
            cfg=self.task.cfg, sender=LATE, moment=1, public=bytes(32)
        )
        request = seal(header, self.secrets[LATE].signing)
        self.relay.ask(request.encode(), request)
        return request.digest

    def answer(self, request: bytes, version: int) -> None:
        header = Snapshot(
            cfg=self.task.cfg,
            sender=OTHERS[0],
            recipient=LATE,
            request=request,
            version=version,
            chain=bytes(32),
            state_digest=bytes(32),
            previous_digest=b"",
            public=bytes(32),
        )
        snapshot = seal(header, self.secrets[OTHERS[0]].signing, (b"sealed",))
        self.relay.offer(snapshot.encode(), snapshot)

    def collect(self, request: bytes):
        header = SnapshotQuery(
            cfg=self.task.cfg, sender=LATE, moment=2, request=request
        )
        return self.relay.collect(seal(header, self.secrets[LATE].signing))

    def vouching(self, version: int) -> int:
        """Return how many witnesses come with a snapshot of that version."""
        request = self.ask()
        self.answer(request, version)
        return len(self.collect(request).header.witnesses)


@pytest.fixture
def scene():
    with federate("plain", staleness_bound=STALENESS) as federation:
        yield Scene(federation)


# Whoever exchanges every other release skips every other version, too.
@pytest.mark.parametrize("apart", [1, 2])
def test_witnesses_are_kept_for_weights_of_the_last_s_releases_only(scene, apart):
    newest = 30
    for base in range(0, newest + 1, apart):
        for name in OTHERS:
            scene.upload(name, base)
    kept = [version for version in range(newest + 1) if scene.vouching(version)]
    assert kept == [
        version
        for version in range(newest - STALENESS, newest + 1)
        if version % apart == 0
    ]
    assert all(scene.vouching(version) == len(OTHERS) for version in kept)


def test_an_upload_that_comes_again_late_brings_no_old_witness_back(scene):
    scene.upload("p1", 0)
    scene.upload("p1", 20)
    scene.upload("p1", 0)
    assert scene.vouching(0) == 0
    assert scene.vouching(20) == 1


def test_a_snapshot_goes_when_its_recipient_uploads(scene):
    request = scene.ask()
    scene.answer(request, 3)
    scene.upload("p1", 3)
    assert scene.collect(request) is not None
    scene.upload(LATE, 3)
    assert scene.collect(request) is None
