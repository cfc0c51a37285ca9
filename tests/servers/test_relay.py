"""What the DSP keeps of snapshots, and for how long."""

from __future__ import annotations

import numpy as np
import pytest

from hre_torch.errors import MessageError, TaskError
from hre_torch.participant.participant import LearningParticipant
from hre_torch.protocol.messages import (
    Snapshot,
    SnapshotQuery,
    SnapshotRequest,
    Voucher,
    WantedRequest,
)
from hre_torch.protocol.wire import decode, seal
from hre_torch.protocol.workers import Workers
from hre_torch.servers.relay import SnapshotRelay
from tests.servers.contract import N_VALUES, federate

STALENESS = 5
LATE = "p0"


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

    def ask(self, name: str = LATE) -> bytes:
        header = SnapshotRequest(
            cfg=self.task.cfg, sender=name, moment=1, public=bytes(32)
        )
        request = seal(header, self.secrets[name].signing)
        self.relay.ask(request.encode(), request)
        return request.digest

    def answer(self, request: bytes, version: int, sender: str, fill: int = 0) -> None:
        header = Snapshot(
            cfg=self.task.cfg,
            sender=sender,
            recipient=LATE,
            request=request,
            version=version,
            chain=bytes(32),
            state_digest=bytes([fill]) * 32,
            previous_digest=b"",
            public=bytes(32),
        )
        snapshot = seal(header, self.secrets[sender].signing, (b"sealed",))
        self.relay.offer(snapshot.encode(), snapshot)

    def vouch(self, name: str, base: int, *fills: int) -> None:
        run = b"".join(bytes([fill]) * 32 for fill in fills)
        header = Voucher(
            cfg=self.task.cfg, sender=name, base_version=base, state_digests=run
        )
        self.relay.vouch(seal(header, self.secrets[name].signing))

    def collect(self, request: bytes):
        header = SnapshotQuery(
            cfg=self.task.cfg, sender=LATE, moment=2, request=request
        )
        return self.relay.collect(seal(header, self.secrets[LATE].signing))

    def found(self, request: bytes) -> tuple[str, int, int] | None:
        """Return whose snapshot of which version there is, and how many vouch."""
        reply = self.collect(request)
        if not reply.parts:
            return None
        header = decode(reply.parts[0], Snapshot, max_bytes=100).header
        return header.sender, header.version, len(reply.header.witnesses)


@pytest.fixture
def scene():
    with federate("plain", participants=5, staleness_bound=STALENESS) as federation:
        yield Scene(federation)


def test_an_upload_or_a_voucher_for_the_snapshots_model_is_a_witness(scene):
    request = scene.ask()
    assert scene.found(request) is None
    scene.answer(request, 7, "p1")
    assert scene.found(request) == ("p1", 7, 0)
    scene.upload("p2", 7)
    scene.vouch("p3", 8, 0, 1)
    scene.vouch("p4", 8, 1)
    assert scene.found(request) == ("p1", 7, 2)


def test_a_witness_stays_one_when_it_has_gone_on(scene):
    request = scene.ask()
    scene.vouch("p2", 7, 0)
    scene.answer(request, 7, "p1")
    scene.vouch("p2", 30, 5)
    assert scene.found(request) == ("p1", 7, 1)


def test_an_older_word_that_comes_again_late_replaces_no_newer_one(scene):
    scene.upload("p1", 20)
    scene.upload("p1", 0)
    request = scene.ask()
    scene.answer(request, 20, "p2")
    assert scene.found(request) == ("p2", 20, 1)


def test_the_snapshot_that_most_name_wins_then_the_newer_one(scene):
    request = scene.ask()
    scene.answer(request, 7, "p1")
    scene.answer(request, 9, "p2")
    scene.answer(request, 8, "p3")
    assert scene.found(request) == ("p2", 9, 0)
    scene.vouch("p3", 8, 0)
    scene.answer(request, 8, "p4")
    assert scene.found(request) == ("p4", 8, 1)
    # It names the far future, and stands alone with it.
    scene.answer(request, 10**6, "p1", fill=9)
    assert scene.found(request) == ("p4", 8, 1)


def test_everybody_else_sees_every_request(scene):
    scene.ask()
    scene.ask("p1")

    def seen(name: str) -> set[str]:
        header = WantedRequest(cfg=scene.task.cfg, sender=name, moment=3)
        request = seal(header, scene.secrets[name].signing)
        asked = scene.relay.wanted(request).header.asked
        return {
            decode(it.request, SnapshotRequest, max_bytes=0).header.sender
            for it in asked
        }

    assert seen("p2") == {LATE, "p1"}
    assert seen(LATE) == {"p1"}


def test_a_request_that_is_not_here_any_more_is_said(scene):
    request = scene.ask()
    scene.upload("p1", 3)
    assert scene.found(request) is None
    scene.upload(LATE, 3)
    with pytest.raises(TaskError, match="ask again"):
        scene.collect(request)


@pytest.mark.parametrize(("base", "octets"), [(0, 64), (3, 33)])
def test_a_voucher_that_names_what_cannot_be_is_refused(scene, base, octets):
    header = Voucher(
        cfg=scene.task.cfg, sender="p1", base_version=base, state_digests=bytes(octets)
    )
    with pytest.raises(MessageError):
        scene.relay.vouch(seal(header, scene.secrets["p1"].signing))
