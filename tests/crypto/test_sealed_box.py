"""A sealed box opens for its recipient only, and for nothing else than it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.crypto.keys.boxes import BOX_OVERHEAD, BoxKey, seal_box
from hre_torch.errors import CryptoError, DecryptionError


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_the_recipient_opens_what_was_sealed(plaintext, context):
    key = BoxKey()
    ephemeral, sealed = seal_box(key.public, plaintext, context)
    assert key.open(ephemeral, sealed, context) == plaintext
    assert len(sealed) == len(plaintext) + BOX_OVERHEAD


@pytest.mark.parametrize("what", ["key", "ephemeral", "sealed", "context"])
def test_nothing_opens_if_anything_is_another(what):
    key = BoxKey()
    ephemeral, sealed = seal_box(key.public, b"weights", b"task")
    parts = {"ephemeral": ephemeral, "sealed": sealed, "context": b"task"}
    if what == "key":
        key = BoxKey()
    else:
        parts[what] = bytes([parts[what][0] ^ 1]) + parts[what][1:]
    with pytest.raises(DecryptionError):
        key.open(**parts)


def test_two_boxes_of_one_text_have_nothing_in_common():
    key = BoxKey()
    assert seal_box(key.public, b"same", b"") != seal_box(key.public, b"same", b"")


@pytest.mark.parametrize("public", [b"", b"short", bytes(32)])
def test_a_key_that_is_none_is_refused(public):
    with pytest.raises(CryptoError):
        seal_box(public, b"x", b"")


def test_the_repr_shows_the_public_half_only():
    key = BoxKey()
    assert key.public.hex()[:16] in repr(key)
    assert key._secret.private_bytes_raw().hex()[:16] not in repr(key)
