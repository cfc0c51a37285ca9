"""Sessions and a KTS under a DSP that answers what it likes and deposits what it likes.

Hypothesis plays the DSP: it acknowledges what it throws away, refuses what it deposits,
brings uploads to the KTS late, twice and in any order, has any list released that the
KTS signs, and shows each participant as many of them as it likes.
Whatever it does, the same values are in one list at most, and everybody's weights are
those of the lists that it has seen, with its own other updates on top, once each.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from benchmarks.attacks.a15_lying_refusal import RefusingDataService
from benchmarks.attacks.two_faces import View
from hre_torch import errors
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import AggregatorError, HREError
from hre_torch.participant.aggregator import Aggregator
from hre_torch.participant.participant import LearningParticipant
from hre_torch.participant.session import Session
from hre_torch.participant.session_state import SessionState
from hre_torch.protocol.evidence import check_evidence
from hre_torch.protocol.messages import Deposit, Upload
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task, sign_task
from hre_torch.protocol.wire import decode, refuse, seal
from hre_torch.protocol.workers import Workers
from hre_torch.servers.journal import KeyTransformState
from hre_torch.servers.key_transform import KeyTransformServer
from tests.tasks import config_for

NAMES = ("a", "b", "c", "mallory")
HONEST = NAMES[:3]
N_VALUES = 3
ZERO = np.zeros(N_VALUES, dtype=np.int64)
ANSWERS = ("ack", "lost", "shrug", "StaleUploadError", "BackPressure")
ANSWERS += ("UsedNumberError", "SpentUpdateError", "ProofError")

seen: Counter[str] = Counter()


@cache
def world(staleness: int) -> tuple[Task, dict[str, Any]]:
    """Return a task of four, with t = 3, and everybody's secrets."""
    parameters = load_profile("toy-insecure")
    operator = SigningKey(bytes(32))
    suite = SUITES.get("plain")
    secrets, roster = suite.setup(NAMES, parameters, operator=operator.public)
    config = config_for(
        roster,
        parameters,
        ZERO,
        suite="plain",
        min_contributions=3,
        max_additions=12,
        pending_limit=3,
        staleness_bound=staleness,
        assumed_colluders=1,
        combine="sum",
    )
    return Task(config, roster, parameters, sign_task(config, operator)), secrets


class Line(Aggregator):
    """A participant's line to the DSP."""

    def __init__(self, name: str, machine: LyingDSP) -> None:
        self.name, self.machine = name, machine

    def submit(self, upload):
        return self.machine.answer(decode(upload, Upload, max_bytes=10**6), upload)

    def fetch(self, since, *, merge=True):
        for version in range(since + 1, self.machine.shown + 1):
            yield self.machine.dsp.download(self.name, version).encode()

    def declare(self, statement):
        raise AggregatorError("nothing is stated here")

    def close(self):
        pass


class LyingDSP(RuleBasedStateMachine):
    """Everybody, and what the DSP does next."""

    staleness = 2

    def __init__(self) -> None:
        super().__init__()
        self.task, self.secrets = world(self.staleness)
        self.kts = KeyTransformServer(self.task, self.secrets["kts"], Workers())
        suite = SUITES.get("plain")
        self.dsp = RefusingDataService(
            View(
                self.task,
                self.secrets["dsp"],
                suite.data_service(self.task, self.secrets["dsp"], Workers()),
                LearningParticipant(self.task, self.secrets["mallory"], Workers()),
                self.deposit,
                lambda order: self.kts.approve(order),
                lambda request: self.kts.transform(request),
                lambda statement: self.kts.declare(statement),
            )
        )
        self.sessions = {name: self.session(name, ZERO) for name in HONEST}
        self.pushed: dict[str, list[int]] = {name: [] for name in HONEST}
        self.values = 0
        self.shown = 0
        self.says = "ack"
        self.lists: list[list[tuple[str, int]]] = []

    def session(self, name, initial, state=None):
        line = Line(name, self)
        return Session(self.task, self.secrets[name], line, initial, state=state)

    def answer(self, upload, octets):
        self.dsp.kept.append(upload)
        seen[self.says] += 1
        seen["voids"] += bool(upload.header.voids)
        if self.says == "lost":
            raise AggregatorError("the line is dead")
        if self.says == "ack":
            return self.dsp.acknowledge(upload).encode()
        error = getattr(errors, self.says, errors.StaleUploadError)("no")
        if self.says != "shrug":
            error.upload, error.version = upload.digest, self.dsp.version
        if self.says == "SpentUpdateError" and self.dsp._released:
            # As likely as not, this release has nothing to do with the upload.
            error.release = self.dsp._released[-1][0].encode()
        about = hashlib.sha256(octets).digest()
        key = self.secrets["dsp"].signing
        return refuse(error, cfg=self.task.cfg, sender="dsp", key=key, about=about)

    def deposit(self, upload):
        deposit = Deposit(
            cfg=self.task.cfg,
            sender="dsp",
            upload_header=upload.header_bytes,
            upload_proof=upload.proof,
            upload_signature=upload.signature,
        )
        return self.kts.deposit(seal(deposit, self.secrets["dsp"].signing))

    def of(self, upload) -> tuple[str, int]:
        """Return whose values are in an upload, and which: nothing is hidden here."""
        arithmetic = self.dsp.view.arithmetic
        total = arithmetic.restore(upload.parts)
        opened = SUITES.get("plain").participant(
            self.task, self.secrets["mallory"], Workers()
        )
        values = opened.decrypt(arithmetic.dump(total), 1)
        return upload.header.sender, int(values[0])

    @rule(name=st.sampled_from(HONEST), says=st.sampled_from(ANSWERS))
    def push(self, name, says):
        self.says, session = says, self.sessions[name]
        self.values += 1
        number = session.sequence
        try:
            session.push(np.full(N_VALUES, self.values, dtype=np.int32))
        except HREError as error:
            seen[f"said {type(error).__name__}"] += 1
        if session.sequence != number:
            self.pushed[name].append(self.values)

    @rule(lied_to=st.sampled_from(HONEST), says=st.sampled_from(ANSWERS))
    def push_together_and_release_it_all(self, lied_to, says):
        for name in HONEST:
            self.push(name, says if name == lied_to else "ack")
        self.bring_everything()
        self.release_one_of_each(False, None)

    @rule(says=st.sampled_from(ANSWERS), besides=st.sampled_from(HONEST))
    def have_some_seal_again_and_release_both_copies(self, says, besides):
        for name in HONEST:
            self.push(name, "ack" if name == besides else says)
            self.pull(name, "ack", 0)
        self.bring_everything()
        for oldest in (True, False):
            self.release_one_of_each(oldest, None)
        for name in HONEST:
            self.pull(name, "ack", 0)

    @rule(name=st.sampled_from(HONEST), says=st.sampled_from(ANSWERS))
    def send_again(self, name, says):
        self.says = says
        with quiet():
            self.sessions[name].resend()

    @rule()
    def join_in(self):
        self.dsp.join_in()
        with quiet():
            self.deposit(self.dsp.kept[-1])

    @rule(pick=st.integers(0, 40))
    def bring_something(self, pick):
        if self.dsp.kept:
            with quiet():
                self.deposit(self.dsp.kept[-1 - pick % len(self.dsp.kept)])

    @rule()
    def bring_everything(self):
        for upload in self.dsp.kept:
            with quiet():
                self.deposit(upload)

    @rule(picks=st.lists(st.integers(0, 40), min_size=3, max_size=8))
    def release_some(self, picks):
        kept = self.dsp.kept
        chosen = {kept[-1 - pick % len(kept)].digest for pick in picks if kept}
        self.release([upload for upload in kept if upload.digest in chosen])

    @rule(oldest=st.booleans(), besides=st.sampled_from([None, *HONEST]))
    def release_one_of_each(self, oldest, besides):
        self.join_in()
        chosen = {}
        known = {
            entry.digest
            for entry in self.kts.state().ledger.entries
            if entry.status == "accepted"
        }
        for upload in self.dsp.kept:
            sender = upload.header.sender
            if upload.digest in known and sender != besides:
                if oldest and sender in chosen:
                    continue
                chosen[sender] = upload
        self.release(list(chosen.values()))

    def release(self, uploads):
        before = self.dsp.version
        if uploads:
            with quiet():
                self.dsp.release(uploads)
        if self.dsp.version > before:
            seen["release"] += 1
            self.lists.append([self.of(upload) for upload in uploads])

    @rule(
        name=st.sampled_from(HONEST),
        says=st.sampled_from(ANSWERS),
        withheld=st.sampled_from([0, 0, 0, 1, 2]),
    )
    def pull(self, name, says, withheld):
        self.says, self.shown = says, self.dsp.version - withheld
        with quiet(), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                self.sessions[name].pull()
            finally:
                seen["warned"] += len(told)

    @rule(name=st.sampled_from(HONEST))
    def restart_a_session(self, name):
        with quiet():
            state = msgspec.msgpack.encode(self.sessions[name].state())
            again = msgspec.msgpack.decode(state, type=SessionState)
            self.sessions[name] = self.session(name, None, again)
            seen["restart"] += 1

    @rule()
    def restart_the_kts(self):
        state = msgspec.msgpack.encode(self.kts.state())
        again = msgspec.msgpack.decode(state, type=KeyTransformState)
        key = self.secrets["kts"]
        self.kts = KeyTransformServer(self.task, key, Workers(), state=again)

    @invariant()
    def the_same_values_are_in_one_list_at_most(self):
        listed = [one for each in self.lists for one in each if one[0] != "mallory"]
        assert len(listed) == len(set(listed))

    @invariant()
    def nothing_of_ones_own_is_lost_or_counted_twice(self):
        for name, session in self.sessions.items():
            opened = [one for each in self.lists[: session.version] for one in each]
            own = [v for v in self.pushed[name] if (name, v) not in opened]
            assert set((session.released() - sum(v for _, v in opened)).tolist()) == {0}
            assert set((session.weights() - session.released()).tolist()) == {sum(own)}
            assert session.pending == len(own)

    @invariant()
    def evidence_holds_before_everybody(self):
        for session in self.sessions.values():
            for evidence in session.evidence:
                seen["evidence"] += 1
                assert "has refused upload" in check_evidence(evidence, self.task)


class AtLagOne(LyingDSP):
    """The same with S = 1, where values may be sealed again once in between only."""

    staleness = 1


class quiet:  # noqa: N801, a context like `contextlib.suppress`
    """Let refusals pass, and count them."""

    def __enter__(self):
        return None

    def __exit__(self, kind, error, trace):
        if isinstance(error, HREError):
            seen[type(error).__name__] += 1
            return True
        return False


def play(machine: type[LyingDSP], runs: int) -> None:
    seen.clear()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=runs,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    for happening in ("release", "voids", "warned", "evidence", "restart", *ANSWERS):
        assert seen[happening] > 0, f"{happening} never happened"


def test_whatever_a_dsp_answers_the_same_values_are_in_one_list_at_most():
    play(LyingDSP, 40)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [LyingDSP, AtLagOne])
def test_it_is_so_over_three_thousand_random_histories(machine):
    play(machine, 3000)
    assert seen["SpentUpdateError"] > 0
