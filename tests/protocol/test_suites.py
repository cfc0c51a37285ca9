"""What every suite must do, and what tells them apart."""

from __future__ import annotations

import numpy as np
import pytest

from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.dcr.powers import _chain
from hre_torch.errors import (
    TaskError,
    TransformError,
    UnknownPluginError,
    WrongTaskError,
)
from hre_torch.optim.federation import Federation
from hre_torch.protocol import messages
from hre_torch.protocol.suite import Workload
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.suites.gated import _weighing
from hre_torch.protocol.wire import decode, seal

T3 = {"min_contributions": 3, "participants": 4, "max_additions": 64}
PROTECTED = ["paper", "phong", "gated", "hybrid"]
ALL = ["plain", *PROTECTED]


def play(federation: Federation, draw_update, rounds: int) -> list[np.ndarray]:
    """Push and pull in a fixed, uneven rhythm; return every session's weights."""
    sessions = [federation.join() for _ in federation.names]
    n_values = federation.task.config.n_values
    for turn in range(rounds):
        session = sessions[turn % len(sessions)]
        session.push(draw_update(n_values, seed=turn))
        if turn % 5 == 0:
            session.pull()
    for session in sessions:
        session.pull()
    return [session.weights() for session in sessions]


@pytest.mark.parametrize("suite", PROTECTED)
@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_a_protected_run_equals_the_plain_run_bit_for_bit(
    make_federation, draw_update, suite, combine
):
    plain = play(make_federation("plain", combine=combine, **T3), draw_update, 23)
    other = play(make_federation(suite, combine=combine, **T3), draw_update, 23)
    for expected, got in zip(plain, other, strict=True):
        assert (expected == got).all()


def test_the_run_is_the_same_with_two_worker_processes(make_federation, draw_update):
    alone = play(make_federation("paper"), draw_update, 7)
    both = play(make_federation("paper", workers=2), draw_update, 7)
    assert all((x == y).all() for x, y in zip(alone, both, strict=True))


@pytest.mark.parametrize("suite", ALL)
def test_k_additions_of_extreme_values_open_exactly(make_federation, suite):
    federation = make_federation(
        suite, participants=4, min_contributions=4, max_additions=4
    )
    config = federation.task.config
    for sign in (1, -1):
        sessions = list(federation.sessions.values()) or [
            federation.join() for _ in range(4)
        ]
        before = sessions[0].released()
        values = np.full(config.n_values, sign * 32767, dtype=np.int32)
        for session in sessions:
            session.push(values)
        for session in sessions:
            session.pull()
        assert (sessions[0].released() - before == sign * 4 * 32767).all()


@pytest.mark.parametrize("suite", ["paper"])
def test_plan_predicts_the_bytes_that_travel(make_federation, draw_update, suite):
    federation = make_federation(suite)
    config = federation.task.config
    plan = SUITES.get(suite).plan(
        federation.task.parameters, Workload(config.n_values, 3, 16, 256)
    )
    play(federation, draw_update, 6)
    statistics = federation.sessions["p0"].statistics
    per_push = statistics.bytes_up / statistics.pushes
    assert plan.upload_bytes < per_push < plan.upload_bytes + 600


def test_the_reference_workload_takes_876_plaintexts_and_55_blocks():
    plan = SUITES.get("paper").plan(
        load_profile("demo3072"), Workload(109_386, 4, 16, 256)
    )
    assert plan.plaintexts == 876
    assert plan.upload_bytes == (876 + 55) * 768


@pytest.mark.parametrize("blocks", [2, 5, 16, 55, 200])
def test_what_weights_cost_is_predicted_within_a_fifth(blocks):
    parameters = load_profile("demo3072")
    stream = np.random.default_rng(blocks)
    weights = [int.from_bytes(stream.bytes(16)) for _ in range(blocks)]
    steps, _, _ = _chain(weights)
    # A power squares and multiplies; then the product takes one more.
    each = sum(q.bit_length() + q.bit_count() - 1 for _, _, q in steps)
    counted = (parameters.lanes + 1) * each
    assert _weighing(blocks, parameters) == pytest.approx(counted, rel=0.2)
    assert _weighing(1, parameters) == 0


def test_servers_that_compute_different_joint_keys_are_refused():
    suite = SUITES.get("paper")
    parameters = load_profile("toy-insecure")

    class Liar(type(suite)):
        def joint_key(self, secret, own, other, parameters):
            keys = super().joint_key(secret, own, other, parameters)
            return keys if secret.role == "dsp" else keys[::-1]

    with pytest.raises(TaskError, match="different joint keys"):
        Liar().setup(["a"], parameters, operator=bytes(32))


def test_keys_of_another_task_do_not_open_a_download(make_federation, draw_update):
    mine, other = make_federation("paper"), make_federation("paper")
    for federation in (mine, other):
        for name in ("p0", "p1"):
            session = federation.join(name)
            session.push(draw_update(62))
    stranger = other.sessions["p0"]
    download = next(mine.servers.fetch("p0", 0, merge=True))
    with pytest.raises(WrongTaskError, match="belongs to task"):
        stranger._participant.open(download)


def test_a_transform_under_the_wrong_key_is_a_transform_error(
    make_federation, draw_update
):
    federation = make_federation("paper")
    a, b = federation.join(), federation.join()
    a.push(draw_update(62))
    b.push(draw_update(62))
    kts = federation.servers._key_transform
    dsp = federation.servers._data_service
    request = dsp.begin("p0", 1, 1)
    reply = kts.transform(request)
    honest = dsp.finish(reply)
    wrong = seal(
        honest.header, dsp._secret.signing, (honest.parts[0], honest.parts[1][::-1])
    )
    with pytest.raises(TransformError, match="nothing was consumed"):
        a._participant.open(wrong.encode())
    assert len(a.pull()) == 1


def test_an_unknown_suite_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownPluginError, match="did you mean 'paper'"):
        SUITES.get("papre")


def test_no_secret_shows_in_a_repr(make_federation):
    federation = make_federation("paper")
    session = federation.join()
    for secret in federation._secrets.values():
        for text in (repr(secret), repr(session), repr(federation.task)):
            assert secret.material.hex() not in text
            assert str(int.from_bytes(secret.material[:8], "big")) not in text


def test_messages_carry_the_kind_they_say(make_federation, draw_update):
    federation = make_federation("paper")
    links = []
    federation.servers.taps.append(lambda link, data: links.append((link, data)))
    play(federation, draw_update, 3)
    kinds = {
        "p0->dsp": messages.Upload,
        "dsp->kts": messages.Deposit
        | messages.ReleaseOrder
        | messages.TransformRequest,
    }
    for link, data in links:
        if link in kinds:
            decode(data, kinds[link], cfg=federation.task.cfg, max_bytes=10**6)


@pytest.mark.parametrize("suite", ["paper", "gated", "hybrid"])
def test_a_further_recipient_of_a_release_costs_no_power_of_a_server_secret(
    make_federation, draw_update, suite, monkeypatch
):
    federation = make_federation(suite, **T3)
    sessions = [federation.join() for _ in range(4)]
    for session in sessions[:3]:
        session.push(draw_update(62))
    sessions[0].pull()
    for module, name in (
        ("hre_torch.crypto.dcr.reencryption", "head_powers"),
        ("hre_torch.crypto.dcr.shares", "strip"),
    ):
        monkeypatch.setattr(f"{module}.{name}", None)
    dsp, kts = federation.servers._data_service, federation.servers._key_transform
    request = dsp.begin("p1", 1, 1)
    if suite != "paper":
        assert kts.transform(request).header.recipient == "p1"
