"""Who lost its memory gets the released weights from whoever still has them."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from hre_torch.errors import AggregatorError, BackPressure, StaleUploadError
from hre_torch.participant import newcomer
from hre_torch.participant.snapshots import seal_snapshot
from hre_torch.protocol.messages import Snapshot
from hre_torch.protocol.vectors import chained_digest, state_digest
from hre_torch.protocol.wire import decode, seal
from hre_torch.servers.kts_client import UnreachableError
from tests.participant.conftest import NAMES

SECONDS = 30
"""In which everybody trains again."""


def same(fill: int) -> np.ndarray:
    return np.full(62, fill, dtype=np.int32)


def one_round(sessions, fill=1):
    for session in sessions:
        session.push(same(fill))
    return [session.pull() for session in sessions]


class Killed(BaseException):
    """Nobody handles it, as nobody handles SIGKILL."""


@dataclass
class Trainer:
    """A participant that trains in a thread, and may be killed at any message."""

    site: object
    name: str
    dice: random.Random
    left: float = float("inf")
    ended: bool = False
    session: object = None
    errors: list = field(default_factory=list)

    def start(self) -> Trainer:
        self.left, self.ended, self.session = float("inf"), False, None
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        return self

    def kill(self) -> None:
        """Let the next messages but a few be the last ones, and wait for the end."""
        self.left = self.dice.randrange(6)
        self._thread.join(SECONDS)

    def stop(self) -> None:
        self.ended = True
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    @property
    def version(self) -> int:
        return -1 if self.session is None else self.session.version

    def _live(self) -> None:
        try:
            self._train()
        except Killed:
            pass
        except Exception as error:
            self.errors.append(error)

    def _train(self) -> None:
        session = self.site.connect(
            self.name, initial=self.site.initial, background=False, timeout=SECONDS
        )
        exchange = session._carrier.aggregator.exchange
        post = exchange._post

        def mortal(route, octets, most):
            self.left -= 1
            if self.left < 0:
                if self.dice.random() < 0.5:
                    post(route, octets, most)
                raise Killed
            return post(route, octets, most)

        exchange._post = mortal
        self.session = session
        while not self.ended:
            try:
                session.push(same(1))
            except (BackPressure, StaleUploadError):
                time.sleep(0.05)
            session.pull()
            time.sleep(0.01)


def kill_again_and_again(site, times: int, seed: int, victims: int) -> list[float]:
    """Kill some of four so often; return how long each time all trained again."""
    dice, took = random.Random(seed), []
    trainers = [Trainer(site, name, dice).start() for name in NAMES]

    def await_progress(version: int) -> None:
        deadline = time.monotonic() + SECONDS
        while min(trainer.version for trainer in trainers) < version:
            assert [trainer.errors for trainer in trainers] == [[]] * len(NAMES)
            assert time.monotonic() < deadline, trainers
            time.sleep(0.02)

    await_progress(3)
    for _ in range(times):
        time.sleep(dice.uniform(0, 0.3))
        killed = dice.sample(trainers, victims)
        for victim in killed:
            victim.kill()
        stood = max(trainer.version for trainer in trainers)
        started = time.monotonic()
        for victim in killed:
            victim.start()
        await_progress(stood + 2)
        took.append(time.monotonic() - started)
    for trainer in trainers:
        trainer.stop()
    newest = [trainer.session for trainer in trainers]
    for session in newest:
        session.pull()
    assert len({session.released().tobytes() for session in newest}) == 1
    return took


@pytest.mark.parametrize("victims", [2, 3])
def test_any_of_four_that_are_killed_without_memory_train_again(
    make_hosted_site, victims
):
    site = make_hosted_site("hybrid")
    kill_again_and_again(site, times=2, seed=1, victims=victims)


@pytest.mark.slow
@pytest.mark.parametrize("staleness_bound", [50, 2])
@pytest.mark.parametrize("victims", [2, 3])
def test_any_of_four_are_back_within_30_s_a_hundred_times_of_a_hundred(
    make_hosted_site, staleness_bound, victims
):
    site = make_hosted_site("hybrid", staleness_bound=staleness_bound)
    took = kill_again_and_again(site, times=50, seed=2, victims=victims)
    assert len(took) == 50
    print(
        f"{victims} killed, S = {staleness_bound}: 50 of 50, median "
        f"{np.median(took):.1f} s, longest {max(took):.1f} s"
    )


def joined(site, name, *helpers, **options):
    """Return a participant that joins without memory while others only pull."""
    ended = threading.Event()

    def help_all() -> None:
        while not ended.is_set():
            for helper in helpers:
                helper.pull()
            time.sleep(0.02)

    helping = threading.Thread(target=help_all)
    helping.start()
    try:
        late = site.connect(name, **{"timeout": SECONDS} | options)
        late.pull()
        return late
    finally:
        ended.set()
        helping.join()


@pytest.fixture
def three(make_hosted_site):
    """A site at release 1 of which p0, p1 and p2 know; p3 has never been there."""
    site = make_hosted_site("hybrid")
    site.sessions = [site.connect(name, initial=site.initial) for name in NAMES[:3]]
    one_round(site.sessions)
    return site


def test_sessions_that_wait_for_every_answer_help_at_their_next_call(three):
    late = joined(three, "p3", *three.sessions[:2])
    assert (late.released() == three.sessions[0].released()).all()


def test_two_that_have_just_been_resumed_help(three):
    states = [session.state() for session in three.sessions[:2]]
    resumed = [
        three.connect(name, state=state)
        for name, state in zip(NAMES, states, strict=False)
    ]
    late = joined(three, "p3", *resumed)
    assert (late.released() == three.sessions[0].released()).all()


def test_who_came_with_a_snapshot_seals_the_next_one(three):
    first = joined(three, "p3", *three.sessions[:2])
    three.dsp._relay._words.clear()
    second = joined(three, "p2", first, three.sessions[0])
    assert (second.released() == first.released()).all()


def test_two_that_lost_their_memory_are_both_seen(three):
    late = {}

    def join(name):
        late[name] = three.connect(name, timeout=SECONDS)
        late[name].pull()

    joining = [threading.Thread(target=join, args=[name]) for name in ("p2", "p3")]
    for thread in joining:
        thread.start()
    while any(thread.is_alive() for thread in joining):
        for session in three.sessions[:2]:
            session.pull()
        time.sleep(0.02)
    for session in late.values():
        assert (session.released() == three.sessions[0].released()).all()


def test_a_dsp_that_forgets_a_request_in_a_restart_is_asked_again(three):
    relay, forgotten = three.dsp._relay, []
    ask = relay.ask

    def forget(message, request):
        if forgotten:
            ask(message, request)
        forgotten.append(request)

    relay.ask = forget
    joined(three, "p3", *three.sessions[:2])
    assert len(forgotten) == 2


def test_a_liar_that_names_the_future_keeps_nobody_out(three):
    liar, *honest = three.sessions
    relay = three.dsp._relay
    ask = relay.ask

    def lie(message, request):
        ask(message, request)
        liar._participant._version = 10**6
        sealed = seal_snapshot(liar, liar._participant._secret, message)
        relay.offer(sealed, decode(sealed, Snapshot, max_bytes=999))

    relay.ask = lie
    late = joined(three, "p3", *honest)
    assert (late.released() == honest[0].released()).all()


@pytest.fixture
def left(make_hosted_site, request, monkeypatch):
    """A site whose four have all opened release 2; the DSP knows what its disk has."""
    monkeypatch.setattr(newcomer, "_HELP_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(newcomer, "_POLL_SECONDS", 0.05)
    suite = getattr(request, "param", "hybrid")
    site = make_hosted_site(suite, assumed_colluders=1)
    site.sessions = [site.connect(name, initial=site.initial) for name in NAMES]
    for _ in range(2):
        one_round(site.sessions)
    site.dsp._relay._words.clear()
    return site


@pytest.mark.parametrize("left", ["hybrid", "gated", "plain"], indirect=True)
def test_one_that_holds_the_weights_is_enough(left):
    holder = left.sessions[0]
    back = [joined(left, name, holder) for name in NAMES[1:]]
    for session in back:
        assert session.version == 2
        assert (session.released() == holder.released()).all()
    one_round([holder, *back])
    assert {session.version > 2 for session in (holder, *back)} == {True}
    assert len({session.released().tobytes() for session in (holder, *back)}) == 1


def test_one_that_came_with_a_snapshot_is_enough_as_well(left):
    second = joined(left, "p1", left.sessions[0])
    left.dsp._relay._words.clear()
    third = joined(left, "p2", second)
    assert (third.released() == second.released()).all()


def test_what_enough_vouch_for_of_earlier_versions_is_passed_on(left):
    second = joined(left, "p1", *left.sessions[2:])
    assert second.state_digests == left.sessions[2].state_digests


def lie(session) -> None:
    """Have a session hold other weights than everybody else, and name those."""
    model = session._model
    model.values += 1
    digest = state_digest(model.values)
    if session.task.config.suite != "plain":
        digest = chained_digest(model.previous_digest, digest)
    model.run = model.run[:-32] + digest


@pytest.mark.parametrize("left", ["hybrid", "plain"], indirect=True)
def test_false_weights_of_the_only_one_that_answers_are_not_believed(left):
    liar = left.sessions[0]
    lie(liar)
    with pytest.raises(AggregatorError, match="do not follow from the settled model"):
        joined(left, "p3", liar, timeout=1.5)


@pytest.mark.parametrize("ahead", [0, 10**6])
def test_a_liar_keeps_nobody_out_where_one_honest_holder_is_left(left, ahead):
    liar, honest = left.sessions[:2]
    lie(liar)
    liar._participant._state.version += ahead
    liar._receiver.receive = lambda **_: []
    relay = left.dsp._relay
    ask = relay.ask

    def first(message, request):
        ask(message, request)
        sealed = seal_snapshot(liar, liar._participant._secret, message)
        relay.offer(sealed, decode(sealed, Snapshot, max_bytes=999))

    relay.ask = first
    late = joined(left, "p3", liar, honest)
    assert (late.released() == honest.released()).all()


@pytest.mark.parametrize("which", ["old", "forged", "of another task", "none"])
def test_only_what_the_kts_says_now_of_this_task_counts(left, which):
    ask = left.dsp._kts.ask
    heads = []

    async def tampered(route, message, kind):
        if route != "/v1/heads":
            return await ask(route, message, kind)
        if which == "none":
            raise UnreachableError("it does not answer")
        answer = await ask(route, message, kind)
        heads.append(answer)
        header, keys = answer.header, left.secrets
        if which == "old":
            return (
                heads[0]
                if len(heads) > 1
                else seal(
                    msgspec.structs.replace(header, request=b""), keys["kts"].signing
                )
            )
        if which == "forged":
            return seal(header, keys["dsp"].signing)
        other = msgspec.structs.replace(header, cfg=bytes(32))
        return seal(other, keys["kts"].signing)

    left.dsp._kts.ask = tampered
    said = {
        "old": "what the DSP shows of the KTS is not new",
        "forged": "signature",
        "of another task": "belongs to task 0000000000000000",
        "none": "it does not answer",
    }[which]
    with pytest.raises(AggregatorError, match=said):
        joined(left, "p3", left.sessions[0], timeout=1.5)


def test_where_nobody_is_left_the_way_on_is_said(make_hosted_site, monkeypatch, caplog):
    monkeypatch.setattr(newcomer, "_TOLD_AFTER_SECONDS", 0)
    site = make_hosted_site("plain")
    one_round([site.connect(name, initial=site.initial) for name in site.names[:3]])
    with pytest.raises(AggregatorError, match="roster sign --start FILE"):
        site.connect("p3", timeout=0.5)
    (told,) = caplog.messages
    assert "nobody has answered yet" in told
    assert "roster sign --start FILE" in told
