from __future__ import annotations

import hashlib
import re

import msgspec
import numpy as np
import pytest

from hre_torch import __version__
from hre_torch.errors import MessageError
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.wire import cut, lengths_of, octets_of, parse_header

SHORT, LONG = b"s" * 100, b"l" * (1 << 16)


def listed(*parts):
    return [(len(part), hashlib.sha256(part).digest()) for part in parts]


def test_a_long_part_is_a_view_of_the_message_and_a_short_one_a_copy():
    message = bytearray(LONG + SHORT)
    long, short = cut(memoryview(message), listed(LONG, SHORT))
    assert (long, short) == (LONG, SHORT)
    assert isinstance(short, bytes)
    message[0] = ord("x")
    assert long[0] == ord("x")


def test_a_view_cannot_be_written_through():
    (part,) = cut(memoryview(bytearray(LONG)), listed(LONG))
    assert not np.frombuffer(part, dtype=np.uint8).flags.writeable


def test_a_long_part_that_was_changed_is_refused():
    changed = b"x" + LONG[1:]
    with pytest.raises(MessageError, match="part 0 does not have the SHA-256"):
        cut(memoryview(changed), listed(LONG))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"HRE2", f"messages have format '2'; this is version {__version__}"),
        (b"HRE\xff", "messages have format"),
        (b"GET ", "not an hre_torch message"),
    ],
)
def test_a_message_of_another_version_says_so(start, said):
    with pytest.raises(MessageError, match=re.escape(said)):
        lengths_of(start + bytes(8))


def test_a_header_that_this_version_cannot_read_names_this_version():
    header = msgspec.msgpack.encode({"kind": "upload", "news": 1})
    with pytest.raises(MessageError, match=f"hre_torch, here {__version__}"):
        parse_header(header, Upload)


def test_an_array_becomes_a_part_without_a_copy():
    array = np.arange(5, dtype="<u4")
    part = octets_of(array)
    assert len(part) == 20
    assert part == array.tobytes()
    assert np.shares_memory(np.frombuffer(part, dtype="<u4"), array)
