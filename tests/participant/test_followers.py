"""Workers of a participant do its work, and do not outlive it."""

from __future__ import annotations

import os
import signal
import time

import pytest

from hre_torch.errors import AggregatorError, ConfigurationError
from hre_torch.participant.connection import KeyLock
from hre_torch.protocol.workers import Workers


def test_they_map_functions_as_other_workers_do():
    workers = Workers.processes(2)
    assert workers.map(abs, [-1, 2, -3]) == [1, 2, 3]
    workers.close()
    assert Workers.processes(1).map(abs, [-1]) == [1]
    with pytest.raises(ConfigurationError):
        Workers.processes(0)


def test_they_end_when_their_participant_is_killed_and_give_its_key_free(tmp_path):
    key = tmp_path / "key"
    key.touch()
    reading, writing = os.pipe()
    killed = os.fork()
    if killed == 0:
        lock = KeyLock(key)
        Workers.processes(2).start()
        os.write(writing, b"x")
        time.sleep(60)
        lock.release()
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    with pytest.raises(AggregatorError, match="is open on this machine already"):
        KeyLock(key)
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    # Not even a worker that has not noticed yet holds the key.
    KeyLock(key).release()
    # The end of the pipe says that nobody has it open any more.
    assert os.read(reading, 1) == b""
    os.close(reading)
