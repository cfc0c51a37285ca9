"""Whole roles under fire: from strangers, from participants, from the other server.

A stranger sends whatever it likes; an insider signs it as well. Either way the answer
is a typed error, and what was refused has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from hre_torch.errors import HREError, ReleaseError, RunDirectoryError, TransformError
from hre_torch.optim.federation import Federation, FederationState
from hre_torch.participant.participant import LearningParticipant
from hre_torch.protocol.messages import (
    Deposit,
    Download,
    Receipt,
    Release,
    ReleaseOrder,
    TransformReply,
    TransformRequest,
    Upload,
)
from hre_torch.protocol.wire import Refusal, decode, kind_of, seal
from hre_torch.protocol.workers import Workers
from tests.protocol.barrage import counts, endless, promptly
from tests.protocol.mutations import Mutator, split

N_VALUES = 62


class Stage:
    """A federation that stands still in the middle of everything.

    One release is out and has been opened by p0; p0 and p1 have uploads waiting; p3's
    next upload is sealed and unknown to the servers; a key transform is open for p1.
    """

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.servers = federation.servers
        self.task = federation.task
        self.dsp = self.servers._data_service
        self.kts = self.servers._key_transform
        self.keys = {n: s.signing for n, s in federation._secrets.items()}
        self.seen: dict[str, list[bytes]] = {}
        self.servers.taps.append(
            lambda link, data: self.seen.setdefault(kind_of(data), []).append(data)
        )
        sessions = [federation.join() for _ in federation.names]
        for _ in range(2):
            for session in sessions[:3]:
                session.push(np.arange(-31, 31, dtype=np.int32))
            sessions[0].pull()
        for session in sessions[:2]:
            session.push(np.ones(N_VALUES, dtype=np.int32))
        fresh = LearningParticipant(self.task, federation._secrets["p3"], Workers())
        digest = self.task.config.initial_digest
        values = np.ones(N_VALUES, dtype=np.int32)
        self.uploads = [fresh.seal(values, 0, digest).encode() for _ in range(2)]

    def fingerprint(self) -> bytes:
        """Return everything that both servers know, but for evidence against others.

        And but for the numbers that a sender has used up with what was refused.
        """
        state = self.servers.state()
        for server in (state.data_service, state.key_transform):
            server.evidence = ()
        state.data_service.ledger.newest.clear()
        return msgspec.msgpack.encode(state)

    def receive(self, data: bytes, kind: type) -> Any:
        limit = self.servers._max_bytes
        return decode(data, kind, cfg=self.task.cfg, max_bytes=limit)


@pytest.fixture
def stage(request) -> Iterator[Stage]:
    torch.manual_seed(7)
    with Federation.local(
        torch.nn.Linear(30, 2),
        participants=4,
        suite=getattr(request, "param", "gated"),
        profile="toy-insecure",
        min_contributions=3,
        max_additions=64,
        workers=1,
    ) as federation:
        yield Stage(federation)


def endure(
    step: Callable[[bytes], Any],
    mutants: Iterator[bytes],
    count: int,
    fingerprint: Callable[[], bytes],
) -> int:
    """Feed a step that must refuse; return how often it did not.

    What is refused must change nothing; that is looked at every hundred messages.
    """
    before, accepted = fingerprint(), 0
    for turn in range(count):
        data = next(mutants)
        try:
            with promptly(data):
                step(data)
        except HREError:
            pass
        except Exception as error:
            pytest.fail(f"{error!r} on {data[:300].hex()}")
        else:
            accepted += 1
            before = fingerprint()
        if turn % 100 == 0:
            assert fingerprint() == before, data[:300].hex()
    assert fingerprint() == before
    return accepted


def refused(stage: Stage, data: bytes) -> None:
    """Submit bytes, which must be answered by an authentic refusal."""
    reply = stage.servers.submit("p3", data)
    answer = stage.receive(reply, Refusal)
    answer.verify(stage.task.roster.data_service.signing_key)
    raise answer.header.exception()


@counts(4_000)
def test_a_stranger_gets_a_signed_refusal_and_changes_nothing(stage, count):
    mutator, samples = Mutator(21), stage.uploads + stage.seen["upload"]
    mutants = (d for d in endless(mutator.message, samples) if d not in samples)
    stage.servers.taps.clear()
    step = lambda data: refused(stage, data)  # noqa: E731
    assert endure(step, mutants, count, stage.fingerprint) == 0


@counts(400)
@pytest.mark.parametrize("stage", ["plain", "phong", "paper", "hybrid"], indirect=True)
def test_a_stranger_changes_nothing_in_any_suite(stage, count):
    mutator, samples = Mutator(22), stage.uploads + stage.seen["upload"]
    mutants = (d for d in endless(mutator.message, samples) if d not in samples)
    stage.servers.taps.clear()
    step = lambda data: refused(stage, data)  # noqa: E731
    assert endure(step, mutants, count, stage.fingerprint) == 0


@counts(800)
def test_a_participant_cannot_sign_its_way_past_the_proof(stage, count):
    mutator, samples = Mutator(23), stage.uploads[1:]
    mutants = (
        data
        for data in endless(mutator.signed, samples, stage.keys["p3"])
        if split(data)[:2] != split(samples[0])[:2]
    )
    stage.servers.taps.clear()
    step = lambda data: refused(stage, data)  # noqa: E731
    assert endure(step, mutants, count, stage.fingerprint) == 0


@counts(400)
@pytest.mark.parametrize("stage", ["phong", "paper", "hybrid"], indirect=True)
def test_what_a_participant_signs_is_admitted_or_refused_in_any_suite(stage, count):
    mutator = Mutator(24)
    stage.servers.taps.clear()

    def submit(data: bytes) -> None:
        answer = stage.servers.submit("p3", data)
        if kind_of(answer) == "refusal":
            raise stage.receive(answer, Refusal).header.exception()

    mutants = endless(mutator.signed, stage.uploads[1:], stage.keys["p3"])
    endure(submit, mutants, count, stage.fingerprint)


FROM_DSP = {
    "deposit": (Deposit, "deposit"),
    "release_order": (ReleaseOrder, "approve"),
    "transform_request": (TransformRequest, "transform"),
}
FROM_KTS = {
    "receipt": (Receipt, "confirm"),
    "release": (Release, "record"),
    "transform_reply": (TransformReply, "finish"),
}


@counts(800)
@pytest.mark.parametrize("message", FROM_DSP)
def test_a_hostile_dsp_cannot_crash_the_kts(stage, message, count):
    kind, step = FROM_DSP[message]
    mutator, samples = Mutator(25), stage.seen[message]
    if message == "deposit":
        samples = [*samples, unknown_deposit(stage)]
    mutants = endless(mutator.signed, samples, stage.keys["dsp"])

    def deliver(data: bytes) -> None:
        getattr(stage.kts, step)(stage.receive(data, kind))

    endure(deliver, mutants, count, stage.fingerprint)
    assert stage.kts.version == 2


@counts(800)
@pytest.mark.parametrize("message", FROM_KTS)
def test_a_hostile_kts_cannot_crash_the_dsp(stage, message, count):
    kind, step = FROM_KTS[message]
    mutator, samples = Mutator(26), stage.seen[message]
    mutants = endless(mutator.signed, samples, stage.keys["kts"])
    stage.dsp.begin("p1", 2, 2)

    def deliver(data: bytes) -> None:
        getattr(stage.dsp, step)(stage.receive(data, kind))

    endure(deliver, mutants, count, stage.fingerprint)
    assert stage.dsp.version == 2


@counts(800)
def test_a_participant_inside_a_deposit_cannot_crash_the_kts(stage, count):
    mutator = Mutator(27)
    heads = stage.receive(stage.uploads[1], Upload).parts[0]

    def make() -> bytes:
        upload = mutator.signed([stage.uploads[1]], stage.keys["p3"])
        deposit = Deposit(
            cfg=stage.task.cfg,
            sender="dsp",
            upload_header=split(upload)[0],
            upload_proof=split(upload)[1],
            upload_signature=split(upload)[2],
        )
        return seal(deposit, stage.keys["dsp"], (heads,)).encode()

    def deliver(data: bytes) -> None:
        stage.kts.deposit(stage.receive(data, Deposit))

    endure(deliver, endless(make), count, stage.fingerprint)


@counts(800)
def test_hostile_servers_cannot_crash_a_participant(stage, count):
    mutator, samples = Mutator(28), stage.seen["download"]
    secret = stage.federation._secrets["p0"]
    reader = LearningParticipant(stage.task, secret, Workers())
    first = stage.receive(samples[0], Download)

    def make() -> bytes:
        if mutator.random.random() < 0.5:
            return mutator.signed(samples, stage.keys["dsp"])
        release = mutator.signed(list(first.header.releases), stage.keys["kts"])
        header = msgspec.structs.replace(first.header, releases=(release,))
        return seal(header, stage.keys["dsp"], first.parts).encode()

    def open_one(data: bytes) -> None:
        reader.open(data)
        reader._state.version, reader._state.chain = 0, bytes(32)

    def fingerprint() -> bytes:
        return msgspec.msgpack.encode(reader.state())

    endure(open_one, endless(make), count, fingerprint)


@counts(400)
def test_a_damaged_checkpoint_is_refused(stage, count):
    mutator = Mutator(29)
    state = stage.federation.state()
    sample = msgspec.msgpack.encode(state)

    def resume(data: bytes) -> None:
        try:
            read = msgspec.msgpack.decode(data, type=FederationState)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RunDirectoryError(str(error)) from error
        with Federation.resume(read) as resumed:
            for name in resumed.names:
                resumed.join(name)

    endure(resume, endless(mutator.record, [sample]), count, lambda: b"")


def test_a_release_that_names_uploads_otherwise_than_the_dsp_is_refused(stage):
    stage.servers._release_if_due = lambda: None
    for upload in stage.uploads[:1]:
        stage.servers.submit("p3", upload)
    honest = stage.kts.approve(stage.dsp.propose())
    listed = honest.header.uploads
    renamed = msgspec.structs.replace(listed[0], sequence=listed[0].sequence + 7)
    header = msgspec.structs.replace(honest.header, uploads=(renamed, *listed[1:]))
    with pytest.raises(ReleaseError, match="does not recompute"):
        stage.dsp.record(seal(header, stage.keys["kts"]))
    stage.dsp.record(honest)
    assert stage.dsp.version == 3


def test_a_reply_to_nothing_is_no_crash(stage):
    reply = TransformReply(
        cfg=stage.task.cfg, sender="kts", recipient="p2", first=0, last=0
    )
    with pytest.raises(TransformError, match="not asked for"):
        stage.dsp.finish(seal(reply, stage.keys["kts"]))


@pytest.mark.parametrize("name", ["dsp", "kts", "mallory", "p" * 100_000])
def test_nobody_but_a_participant_can_fetch(stage, name):
    [refusal] = stage.servers.fetch(name, 0, merge=True)
    header = stage.receive(refusal, Refusal).header
    assert header.error == "TaskError"
    assert len(header.message) <= 2000


def unknown_deposit(stage: Stage) -> bytes:
    """Return the deposit of an upload that the KTS has not seen."""
    upload = stage.receive(stage.uploads[0], Upload)
    deposit = Deposit(
        cfg=stage.task.cfg,
        sender="dsp",
        upload_header=upload.header_bytes,
        upload_proof=upload.proof,
        upload_signature=upload.signature,
    )
    return seal(deposit, stage.keys["dsp"], upload.parts[:1]).encode()
