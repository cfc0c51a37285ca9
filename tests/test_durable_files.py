"""Files that are whole or not there."""

from __future__ import annotations

import os
import stat
import sys

import pytest

from hre_torch.durable_files import create_file, posix_locks, replace_file
from hre_torch.errors import UnsupportedError


def mode_of(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("write", [create_file, replace_file])
def test_a_written_file_is_whole_and_alone(tmp_path, write):
    write(tmp_path / "file", b"content", 0o600)
    assert (tmp_path / "file").read_bytes() == b"content"
    assert mode_of(tmp_path / "file") == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_is_there_is_replaced_or_kept_as_the_name_says(tmp_path):
    path = tmp_path / "file"
    replace_file(path, b"old")
    with pytest.raises(FileExistsError):
        create_file(path, b"new")
    assert path.read_bytes() == b"old"
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_what_an_interruption_left_over_neither_stays_nor_lends_its_mode(tmp_path):
    (tmp_path / ".file.unfinished").write_bytes(b"half")
    replace_file(tmp_path / "file", b"whole", 0o600)
    assert mode_of(tmp_path / "file") == 0o600
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["os.fsync", "os.fdopen", "pathlib.Path.replace"])
def test_a_disk_that_fails_leaves_the_old_file_or_none(tmp_path, monkeypatch, call):
    kept = tmp_path / "kept"
    replace_file(kept, b"old")

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call, fail)
    for write, path in ((replace_file, kept), (create_file, tmp_path / "new")):
        with pytest.raises(OSError, match="No space left"):
            write(path, b"new")
    assert os.listdir(tmp_path) == ["kept"]
    assert kept.read_bytes() == b"old"


def test_a_system_without_locks_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(UnsupportedError, match="no POSIX file locks"):
        posix_locks()
