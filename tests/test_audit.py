"""An audit accepts an honest run and names what is wrong with any other."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from hre_torch.audit import TRANSCRIPT, TranscriptWriter, audit
from hre_torch.errors import RunDirectoryError
from hre_torch.federation import Federation


def run(folder, suite: str) -> None:
    """Write the transcript and the summary of a small run."""
    torch.manual_seed(0)
    with Federation.local(
        torch.nn.Linear(30, 2),
        participants=4,
        suite=suite,
        profile="toy-insecure",
        min_contributions=3,
    ) as federation:
        writer = TranscriptWriter(folder / TRANSCRIPT, federation.task)
        federation.servers.taps.append(writer)
        sessions = [federation.join() for _ in range(4)]
        for turn in range(9):
            session = sessions[turn % 4]
            session.push(np.full(62, turn, dtype=np.int32))
            session.pull()
        writer.close()
        summary = {"suite": suite, "pushes": 9, "releases": federation.servers.version}
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(folder, "gated")
    return folder


@pytest.mark.parametrize("suite", ["plain", "paper", "gated", "hybrid"])
def test_an_honest_run_passes(tmp_path, suite):
    run(tmp_path, suite)
    report = audit(tmp_path)
    assert report.findings == []
    assert (report.suite, report.uploads, report.releases) == (suite, 9, 3)


def test_any_changed_byte_is_found(honest, tmp_path):
    data = (honest / TRANSCRIPT).read_bytes()
    generator = np.random.default_rng(1)
    # The magic number is checked by raising, see below.
    for position in generator.integers(17, len(data), 150):
        changed = bytearray(data)
        changed[position] ^= 1 << int(generator.integers(8))
        (tmp_path / TRANSCRIPT).write_bytes(bytes(changed))
        assert audit(tmp_path).findings, f"octet {position}"


def test_a_cut_off_transcript_is_found(honest, tmp_path):
    data = (honest / TRANSCRIPT).read_bytes()
    (tmp_path / TRANSCRIPT).write_bytes(data[:-1])
    assert "cut off" in audit(tmp_path).findings[0]


def test_a_left_out_deposit_is_named(honest, tmp_path):
    data = (honest / TRANSCRIPT).read_bytes()
    (size,) = np.frombuffer(data[17:21], dtype=">u4")
    start = 21 + int(size)
    (length,) = np.frombuffer(data[start : start + 4], dtype=">u4")
    (tmp_path / TRANSCRIPT).write_bytes(data[:start] + data[start + 4 + int(length) :])
    assert "never entered" in audit(tmp_path).findings[0]


def test_a_summary_that_counts_otherwise_is_named(honest, tmp_path):
    (tmp_path / TRANSCRIPT).write_bytes((honest / TRANSCRIPT).read_bytes())
    (tmp_path / "summary.json").write_text(json.dumps({"pushes": 10}))
    assert "pushes = 10" in audit(tmp_path).findings[0]


def test_a_directory_without_a_transcript_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="holds no transcript"):
        audit(tmp_path)
    (tmp_path / TRANSCRIPT).write_bytes(b"something else")
    with pytest.raises(RunDirectoryError, match="no transcript"):
        audit(tmp_path)
