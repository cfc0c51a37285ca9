"""The embedded backend, and what crosses it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from hre_torch.errors import BackPressure, UnknownPluginError
from hre_torch.optim.federation import Federation
from hre_torch.participant.aggregator import AGGREGATORS
from hre_torch.protocol.messages import Ack
from hre_torch.protocol.wire import decode
from hre_torch.servers.local import LocalAggregator


def fragments(values: np.ndarray) -> list[bytes]:
    """Return how eight neighbouring values look in the encodings we could leak in."""
    piece = values[:8]
    return [
        piece.astype(dtype).tobytes()
        for dtype in ("<i2", "<i4", ">i4", "<i8", ">i8", "<f4", "<f8")
    ]


def record(suite: str) -> tuple[bytes, list[bytes], list[bytes]]:
    """Run a federation; return all bytes of all links, and what must not be in them.

    Returns:
        The traffic; fragments of updates and weights; secret keys.
    """
    torch.manual_seed(3)
    traffic: list[bytes] = []
    secret_numbers: list[bytes] = []
    with Federation.local(
        torch.nn.Linear(30, 2),
        participants=3,
        suite=suite,
        profile="toy-insecure",
        min_contributions=2,
    ) as federation:
        federation.servers.taps.append(lambda link, data: traffic.append(data))
        sessions = [federation.join() for _ in range(3)]
        generator = np.random.default_rng(5)
        for session in sessions:
            values = generator.integers(-30_000, 30_000, 62).astype(np.int32)
            secret_numbers += fragments(values)
            session.push(values)
        for session in sessions:
            for opened in session.pull():
                secret_numbers += fragments(opened.values)
            secret_numbers += fragments(session.released())
        keys = []
        for kept in federation.state().secrets.values():
            keys.append(kept.signing)
            keys += [kept.material[i : i + 8] for i in range(0, len(kept.material), 8)]
    return b"".join(traffic), secret_numbers, [key for key in keys if key]


def leaks(suite: str) -> tuple[int, int]:
    traffic, numbers, keys = record(suite)
    return sum(n in traffic for n in numbers), sum(key in traffic for key in keys)


@pytest.mark.parametrize("suite", ["paper", "phong"])
def test_no_plaintext_update_weight_or_key_crosses_any_link(suite):
    assert leaks(suite) == (0, 0)


def test_the_same_search_finds_the_updates_of_the_plain_suite():
    numbers, keys = leaks("plain")
    assert numbers >= 3
    assert keys == 0


def test_what_one_upload_weighs_does_not_depend_on_its_values():
    sizes = set()
    with Federation.local(
        torch.nn.Linear(30, 2), participants=1, suite="paper", profile="toy-insecure"
    ) as federation:
        federation.servers.taps.append(
            lambda link, data: link == "p0->dsp" and sizes.add(len(data))
        )
        session = federation.join()
        for fill in (0, 1, -32767, 32767):
            session.push(np.full(62, fill, dtype=np.int32))
    assert len(sizes) == 1


def test_an_error_of_the_far_end_comes_back_as_a_refusal_in_bytes(monkeypatch):
    with Federation.local(
        torch.nn.Linear(30, 2),
        participants=2,
        suite="plain",
        profile="toy-insecure",
        min_contributions=2,
        max_additions=2,
    ) as federation:
        session = federation.join()
        answers = []
        federation.servers.taps.append(
            lambda link, data: link == "dsp->p0" and answers.append(data)
        )
        session.push(np.ones(62, dtype=np.int32))
        session._pending.clear()
        session.push(np.ones(62, dtype=np.int32))
        with pytest.raises(BackPressure, match="unreleased uploads"):
            decode(answers[-1], Ack, max_bytes=0)


def test_a_repeated_upload_is_acknowledged_again_and_counts_once():
    with Federation.local(
        torch.nn.Linear(30, 2),
        participants=2,
        suite="paper",
        profile="toy-insecure",
        min_contributions=2,
    ) as federation:
        uploads = []
        federation.servers.taps.append(
            lambda link, data: link.endswith("->dsp") and uploads.append((link, data))
        )
        a, b = federation.join(), federation.join()
        a.push(np.ones(62, dtype=np.int32))
        again = federation.servers.submit("p0", uploads[0][1])
        assert decode(again, Ack, max_bytes=0).header.sequence == 0
        b.push(np.ones(62, dtype=np.int32))
        assert [each.count for each in a.pull()] == [2]


def test_a_third_party_aggregator_plugs_in_by_name():
    @AGGREGATORS.register("recording")
    class Recording(LocalAggregator):
        def __init__(self, name, *, servers, log):
            super().__init__(name, servers=servers)
            self._log = log

        def submit(self, upload):
            self._log.append(len(upload))
            return super().submit(upload)

    log: list[int] = []
    with Federation.local(
        torch.nn.Linear(30, 2), participants=1, suite="paper", profile="toy-insecure"
    ) as federation:
        session = federation.join("p0", aggregator="recording", log=log)
        session.push(np.ones(62, dtype=np.int32))
    assert log == [session.statistics.bytes_up]


def test_an_unknown_aggregator_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownPluginError, match="did you mean 'local'"):
        AGGREGATORS.get("locl")


def test_the_state_of_the_servers_survives_encoding():
    with Federation.local(
        torch.nn.Linear(30, 2), participants=1, suite="paper", profile="toy-insecure"
    ) as federation:
        session = federation.join()
        session.push(np.ones(62, dtype=np.int32))
        state = federation.servers.state()
        encoded = msgspec.msgpack.encode(state)
        assert msgspec.msgpack.decode(encoded, type=type(state)) == state
