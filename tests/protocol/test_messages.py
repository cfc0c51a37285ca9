"""The envelope: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import (
    BackPressure,
    HREError,
    MessageError,
    ProtocolError,
    SignatureError,
    WrongTaskError,
)
from hre_torch.protocol.messages import Ack, Upload
from hre_torch.protocol.wire import MAX_HEADER_BYTES, Refusal, decode, refuse, seal

CFG = bytes(range(32))
KEY = SigningKey(bytes(32))
UPLOAD = Upload(
    cfg=CFG,
    sender="a",
    sequence=3,
    base_version=1,
    state_digests=bytes(64),
    chain=bytes(32),
)


def encoded(parts=(b"heads", b"lanes"), proof=b"proof"):
    return seal(UPLOAD, KEY, parts, prove=lambda header: proof).encode()


@given(st.lists(st.binary(max_size=50), max_size=8), st.binary(max_size=50))
def test_a_message_decodes_to_what_was_sealed(parts, proof):
    sealed = seal(UPLOAD, KEY, tuple(parts), prove=lambda header: proof)
    opened = decode(sealed.encode(), Upload, cfg=CFG, max_bytes=500)
    opened.verify(KEY.public)
    assert opened == sealed
    assert opened.digest == sealed.digest


@given(st.integers(min_value=0), st.integers(1, 255))
def test_any_changed_byte_is_noticed(position, flip):
    data = bytearray(encoded())
    data[position % len(data)] ^= flip
    with pytest.raises((MessageError, SignatureError, WrongTaskError)):
        decode(bytes(data), Upload, cfg=CFG, max_bytes=500).verify(KEY.public)


@given(st.integers(min_value=0))
def test_a_truncated_message_is_refused(length):
    data = encoded()
    with pytest.raises(MessageError):
        decode(data[: length % len(data)], Upload, cfg=CFG, max_bytes=500)


def test_trailing_bytes_are_refused():
    with pytest.raises(MessageError, match="announces 10 octets"):
        decode(encoded() + b"x", Upload, cfg=CFG, max_bytes=500)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_give_only_typed_errors(data):
    with pytest.raises(HREError):
        decode(b"HRE1" + data, Upload, cfg=CFG, max_bytes=500)


def test_a_message_over_the_limit_of_the_task_is_refused_by_its_length():
    with pytest.raises(MessageError, match="too long"):
        decode(encoded((bytes(600),)), Upload, cfg=CFG, max_bytes=500)


def test_a_huge_announced_header_is_refused_before_anything_is_read():
    data = b"HRE1" + (MAX_HEADER_BYTES + 1).to_bytes(4, "big") + bytes(80)
    with pytest.raises(MessageError, match="over the"):
        decode(data, Upload, cfg=CFG, max_bytes=500)


def test_another_kind_of_message_is_refused():
    with pytest.raises(MessageError, match="Ack"):
        decode(encoded(), Ack, cfg=CFG, max_bytes=500)


def test_a_message_of_another_task_is_refused():
    with pytest.raises(WrongTaskError, match="belongs to task"):
        decode(encoded(), Upload, cfg=bytes(32), max_bytes=500)


def test_more_parts_than_any_message_has_are_refused():
    with pytest.raises(MessageError, match="at most 8 parts"):
        decode(encoded((b"",) * 9), Upload, cfg=CFG, max_bytes=500)


def test_a_signature_by_another_key_is_refused():
    sealed = seal(UPLOAD, SigningKey(b"1" * 32))
    with pytest.raises(SignatureError, match="is not a's"):
        sealed.verify(KEY.public)


def test_the_proof_is_covered_by_the_signature():
    sealed = decode(encoded(), Upload, cfg=CFG, max_bytes=500)
    forged = type(sealed)(
        sealed.header, sealed.header_bytes, sealed.parts, b"other", sealed.signature
    )
    with pytest.raises(SignatureError):
        forged.verify(KEY.public)


def test_a_refusal_raises_the_error_it_stands_for():
    data = refuse(BackPressure("wait"), cfg=CFG, sender="dsp", key=KEY)
    with pytest.raises(BackPressure, match=r"^wait$"):
        decode(data, Ack, cfg=CFG, max_bytes=0)


def test_a_refusal_of_an_unknown_class_is_still_a_protocol_error():
    refusal = Refusal(cfg=CFG, sender="dsp", error="SystemExit", message="no")
    with pytest.raises(ProtocolError, match="SystemExit"):
        decode(seal(refusal, KEY).encode(), Ack, cfg=CFG, max_bytes=0)


def test_a_signing_key_does_not_show_its_secret():
    secret = SigningKey(b"\x11" * 32)
    assert "11" * 4 not in repr(secret)
    assert secret.secret_bytes() == b"\x11" * 32
