"""One session with a key at a time, and what keeps a lock from being had."""

from __future__ import annotations

import errno
import fcntl

import pytest

from hre_torch.errors import AggregatorError, KeyFileError
from hre_torch.participant.connection import KeyLock


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "p0.key"
    path.write_text("{}")
    return path


def test_a_second_session_is_kept_away_until_the_first_has_ended(key):
    first = KeyLock(key)
    with pytest.raises(AggregatorError, match="open on this machine already"):
        KeyLock(key)
    first.release()
    first.release()
    KeyLock(key).release()


def test_a_missing_key_file_is_told(tmp_path):
    with pytest.raises(KeyFileError, match="cannot read the key file"):
        KeyLock(tmp_path / "nobody.key")


def test_a_file_system_without_locks_is_told(key, monkeypatch):
    def fail(descriptor, operation):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(KeyFileError, match="put it on a disk of this machine"):
        KeyLock(key)
