"""Two stories of one sender convict it, and nobody can be convicted of less."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from hre_torch.errors import (
    EquivocationError,
    HREError,
    MessageError,
    ReleaseError,
    SignatureError,
    TaskError,
    WrongTaskError,
)
from hre_torch.optim.federation import Federation
from hre_torch.participant.participant import LearningParticipant
from hre_torch.protocol.evidence import Evidence, check_evidence, decode_evidence
from hre_torch.protocol.messages import Ack, Deposit, Release, Upload
from hre_torch.protocol.wire import decode, seal
from hre_torch.protocol.workers import Workers
from hre_torch.servers.local import LocalServersState

SUITES = ["plain", "gated"]


@pytest.fixture
def federation(make_federation, request) -> Federation:
    return make_federation(
        getattr(request, "param", "plain"), participants=4, min_contributions=3
    )


def upload_of(federation: Federation, name: str, value: int):
    """Return the first upload of a participant; every call starts from its key."""
    participant = LearningParticipant(
        federation.task, federation._secrets[name], Workers()
    )
    values = np.full(federation.task.config.n_values, value, dtype=np.int32)
    return participant.seal(values, 0, federation.task.config.initial_digest)


def two_stories(federation: Federation, name: str = "p0") -> Evidence:
    """Return evidence against a participant that went on from an old state."""
    return Evidence.of(upload_of(federation, name, 1), upload_of(federation, name, 2))


def submit(federation: Federation, upload) -> None:
    reply = federation.servers.submit(upload.header.sender, upload.encode())
    decode(reply, Ack, max_bytes=0)


@pytest.mark.parametrize("federation", SUITES, indirect=True)
def test_a_second_upload_with_a_used_number_is_refused_and_kept_as_evidence(federation):
    first, second = upload_of(federation, "p0", 1), upload_of(federation, "p0", 2)
    submit(federation, first)
    with pytest.raises(EquivocationError, match="kept as evidence"):
        submit(federation, second)
    [evidence] = federation.servers._data_service.evidence
    assert evidence == Evidence.of(first, second)
    assert check_evidence(evidence, federation.task) == (
        "'p0' has signed two different uploads with sequence number 0"
    )
    submit(federation, first)


def test_the_kts_keeps_evidence_of_its_own(federation):
    kts = federation.servers._key_transform
    key = federation._secrets["dsp"].signing
    for value in (1, 2):
        upload = upload_of(federation, "p0", value)
        deposit = Deposit(
            cfg=federation.task.cfg,
            sender="dsp",
            upload_header=upload.header_bytes,
            upload_proof=upload.proof,
            upload_signature=upload.signature,
        )
        if value == 1:
            kts.deposit(seal(deposit, key))
    with pytest.raises(EquivocationError):
        kts.deposit(seal(deposit, key))
    [evidence] = kts.evidence
    check_evidence(evidence, federation.task)


def test_a_hundred_contradictions_of_one_participant_are_kept_once(federation):
    submit(federation, upload_of(federation, "p0", 0))
    for value in range(1, 101):
        with pytest.raises(EquivocationError):
            submit(federation, upload_of(federation, "p0", value))
    assert len(federation.servers._data_service.evidence) == 1


def test_evidence_survives_a_restart(federation):
    submit(federation, upload_of(federation, "p0", 1))
    with pytest.raises(EquivocationError):
        submit(federation, upload_of(federation, "p0", 2))
    state = msgspec.msgpack.decode(
        msgspec.msgpack.encode(federation.state()), type=type(federation.state())
    )
    with Federation.resume(state) as resumed:
        [evidence] = resumed.servers._data_service.evidence
        check_evidence(evidence, resumed.task)


def test_two_releases_of_one_version_convict_the_kts(federation):
    for name in ("p0", "p1", "p2"):
        submit(federation, upload_of(federation, name, 1))
    dsp = federation.servers._data_service
    honest = decode(
        federation.servers.state().data_service.releases[1].encoded,
        Release,
        max_bytes=0,
    )
    header = msgspec.structs.replace(honest.header, uploads=honest.header.uploads[:2])
    forked = seal(header, federation._secrets["kts"].signing)
    dsp.record(honest)
    with pytest.raises(EquivocationError, match="two different releases"):
        dsp.record(forked)
    [evidence] = dsp.evidence
    assert check_evidence(evidence, federation.task) == (
        "'kts' has signed two different releases with version 1"
    )


def test_a_release_that_nobody_keeps_any_more_is_still_refused(federation):
    uploads = [upload_of(federation, name, 1) for name in ("p0", "p1", "p2")]
    for upload in uploads:
        submit(federation, upload)
    dsp = federation.servers._data_service
    honest = decode(dsp.state().releases[1].encoded, Release, max_bytes=0)
    for name in federation.names:
        dsp.next_range(name, 1)
    dsp._pending.settle(1)
    dsp.record(honest)
    header = msgspec.structs.replace(honest.header, chain=bytes(32))
    dsp._pending.lists.clear()
    with pytest.raises(ReleaseError, match="next release is version 2"):
        dsp.record(seal(header, federation._secrets["kts"].signing))
    assert not dsp.evidence


def test_a_second_list_for_a_release_that_everybody_has_is_evidence_still(federation):
    for name in ("p0", "p1", "p2"):
        submit(federation, upload_of(federation, name, 1))
    dsp = federation.servers._data_service
    honest = decode(dsp.state().releases[1].encoded, Release, max_bytes=0)
    for name in federation.names:
        dsp.next_range(name, 1)
    dsp._pending.settle(1)
    assert not dsp.state().releases
    header = msgspec.structs.replace(honest.header, chain=bytes(32))
    with pytest.raises(EquivocationError, match="two different releases"):
        dsp.record(seal(header, federation._secrets["kts"].signing))
    assert [each.accused for each in dsp.evidence] == ["kts"]


def test_evidence_travels_as_bytes(federation):
    evidence = two_stories(federation)
    assert decode_evidence(evidence.encode()) == evidence


def test_one_header_twice_proves_nothing(federation):
    upload = upload_of(federation, "p0", 1)
    with pytest.raises(MessageError, match="the same"):
        check_evidence(Evidence.of(upload, upload), federation.task)


def test_two_uploads_with_two_numbers_prove_nothing(federation):
    participant = LearningParticipant(
        federation.task, federation._secrets["p0"], Workers()
    )
    values = np.zeros(federation.task.config.n_values, dtype=np.int32)
    digest = federation.task.config.initial_digest
    pair = [participant.seal(values, 0, digest) for _ in range(2)]
    with pytest.raises(MessageError, match="may sign both"):
        check_evidence(Evidence.of(*pair), federation.task)


def test_an_upload_and_a_release_prove_nothing(federation):
    release = Release(
        cfg=federation.task.cfg,
        sender="p0",
        version=0,
        uploads=(),
        expired=(),
        commitment=b"",
        previous=bytes(32),
        chain=bytes(32),
    )
    signed = seal(release, federation._secrets["p0"].signing)
    with pytest.raises(HREError):
        check_evidence(
            Evidence.of(upload_of(federation, "p0", 1), signed), federation.task
        )


def test_the_accuser_cannot_forge_the_second_story(federation):
    honest = upload_of(federation, "p0", 1)
    forged = seal(honest.header, federation._secrets["p1"].signing, (b"other",))
    with pytest.raises(SignatureError):
        check_evidence(Evidence.of(honest, forged), federation.task)


def test_a_server_cannot_convict_somebody_else_with_its_own_signature(federation):
    release = Release(
        cfg=federation.task.cfg,
        sender="p0",
        version=1,
        uploads=(),
        expired=(),
        commitment=b"",
        previous=bytes(32),
        chain=bytes(32),
    )
    key = federation._secrets["kts"].signing
    other = msgspec.structs.replace(release, version=1, chain=bytes(31) + b"1")
    with pytest.raises(MessageError, match="only 'kts' may send"):
        check_evidence(
            Evidence.of(seal(release, key), seal(other, key)), federation.task
        )


def test_stories_of_two_participants_do_not_mix(federation):
    evidence = Evidence.of(
        upload_of(federation, "p0", 1), upload_of(federation, "p1", 1)
    )
    with pytest.raises(MessageError, match="'p0' is accused"):
        check_evidence(evidence, federation.task)


def test_a_stranger_cannot_be_accused(federation):
    header = Upload(
        cfg=federation.task.cfg,
        sender="mallory",
        sequence=0,
        base_version=0,
        state_digests=bytes(32),
        chain=bytes(32),
    )
    key = federation._secrets["p0"].signing
    pair = [seal(header, key, (part,)) for part in (b"a", b"b")]
    with pytest.raises(TaskError, match="not a participant"):
        check_evidence(Evidence.of(*pair), federation.task)


def test_evidence_belongs_to_one_task(federation, make_federation):
    other = make_federation("plain", participants=4, min_contributions=3)
    with pytest.raises(WrongTaskError):
        check_evidence(two_stories(federation), other.task)


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x80", b"\x93\x01\x02\x03", b"[" * 99]
)
def test_anything_else_is_no_evidence(data):
    with pytest.raises(MessageError, match="no evidence"):
        decode_evidence(data)


def test_stored_evidence_that_is_damaged_is_noticed(federation):
    submit(federation, upload_of(federation, "p0", 1))
    state = federation.servers.state()
    damaged = LocalServersState(
        msgspec.structs.replace(state.data_service, evidence=(b"damaged",)),
        state.key_transform,
    )
    with pytest.raises(MessageError, match="no evidence"):
        type(federation.servers)(federation.task, federation._secrets, state=damaged)
