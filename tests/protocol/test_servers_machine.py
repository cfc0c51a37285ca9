"""Both servers of suite `gated` under random histories, beside a reference.

Hypothesis plays everybody else: honest and lying participants, a network that loses,
repeats, reorders and damages messages, a DSP that orders lists it should not, restarts
between any two steps. After every step both servers must stand where the reference
stands, and what was promised must hold.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hre_torch.protocol.messages import (
    Deposit,
    Receipt,
    Release,
    ReleaseOrder,
    Upload,
)
from hre_torch.protocol.vectors import state_digest
from hre_torch.protocol.wire import seal
from tests.protocol.reference_servers import CORRUPTIONS, Sent
from tests.protocol.servers_play import N_VALUES, NAMES, outcome, seen
from tests.protocol.servers_promises import Promises

names = st.sampled_from(NAMES)
updates = st.lists(st.integers(-127, 127), min_size=N_VALUES, max_size=N_VALUES)
picks = st.integers(0, 99)
"""Which message of those that have crossed a link; 0 is the newest."""


class Servers(Promises, RuleBasedStateMachine):
    """DSP and KTS, and everybody who talks to them."""

    # Participants: honest, forgetful, lying.

    @rule(
        name=names,
        values=updates,
        voids=st.just([]) | st.lists(st.integers(0, 4), max_size=2),
    )
    def seal(self, name, values, voids):
        """Seal, and void what nobody honest would; the servers must agree on it."""
        self.voiding(name, values, tuple(voids))

    @rule(name=names, values=updates, lie=st.integers(0, 1))
    def seal_on_another_model(self, name, values, lie):
        self.lying(name, values, lie)

    @rule(name=names, values=updates, back=st.integers(-1, 3))
    def seal_on_another_version(self, name, values, back):
        base = max(0, self.participants[name].version - back)
        self.make(name, values, base, state_digest(self.weights[name]))

    @rule(pick=picks, values=updates)
    def seal_again_under_a_used_number(self, pick, values):
        upload = self.arrives(Upload, pick)
        if upload is None:
            return
        said, _ = self.sent[upload.digest]
        state = self.participants[said.name]._state
        newest, state.sequence = state.sequence, said.number
        run = b"".join(model for _, model in said.models)
        again = self.make(said.name, values, said.base, run)
        state.sequence = newest
        self.submit(again)

    @rule(name=names, gap=st.integers(1, 3))
    def skip_numbers(self, name, gap):
        self.participants[name]._state.sequence += gap

    # The steps of an upload, each on its own: any of them may come late, twice, never.

    @rule(pick=picks)
    def submit_something(self, pick):
        upload = self.arrives(Upload, pick)
        if upload is not None:
            self.submit(upload)

    @rule(pick=picks, told=st.booleans())
    def forward_something(self, pick, told):
        deposit = self.arrives(Deposit, pick)
        if deposit is not None:
            self.forward(deposit, told=told)

    @rule(pick=picks)
    def confirm_something(self, pick):
        receipt = self.arrives(Receipt, pick)
        if receipt is not None:
            self.confirm(receipt)

    @rule()
    def forward_what_is_unconfirmed(self):
        deposits = self.dsp.unconfirmed()
        assert len(deposits) == sum(map(self.is_pending, self.sent))
        for deposit in deposits:
            self.settle(self.carry(deposit))

    # The same steps in the right order, as mostly happens.

    @rule(name=names, values=updates, back=st.sampled_from([0, 0, 1, 2, 3]))
    def push_one(self, name, values, back):
        """Push, and perhaps void the number of so many uploads ago."""
        number = self.participants[name].state().sequence - back
        voids = (number,) if back and number >= 0 else ()
        self.settle(self.submit(self.voiding(name, values, voids)))

    @rule(name=names, values=updates)
    def push_a_lie(self, name, values):
        self.settle(self.submit(self.lying(name, values, 0)))

    @rule(
        values=updates,
        liar=st.sampled_from([None, *NAMES]),
        then=st.sampled_from(["wait", "release", "pull", "corrupt"]),
    )
    def push_together(self, values, liar, then):
        if liar is not None:
            self.push_a_lie(liar, values)
        for name in NAMES:
            self.push(name, values)
        if then == "corrupt":
            for how in CORRUPTIONS:
                self.order_what_should_not_be(how, 0)
        if then != "wait":
            self.release(None)
        if then == "pull":
            for name in NAMES:
                self.pull(name, "nothing")

    @rule(without=st.sampled_from([None, *NAMES]))
    def release_what_can_be(self, without):
        self.release(without)

    @rule(name=names, lost=st.sampled_from(["nothing", "request", "reply", "download"]))
    def pull_one(self, name, lost):
        self.pull(name, lost)

    # Releases out of order, and lists that must not be.

    @rule()
    def propose(self):
        self.proposed()

    @rule(how=st.sampled_from(sorted(CORRUPTIONS)), pick=picks)
    def order_wrongly(self, how, pick):
        self.order_what_should_not_be(how, pick)

    @rule(pick=picks)
    def approve_something(self, pick):
        order = self.arrives(ReleaseOrder, pick)
        if order is not None:
            self.approve(order)

    @rule(pick=picks)
    def record_something(self, pick):
        release = self.arrives(Release, pick)
        if release is not None:
            self.record(release)

    # Mishaps and malice.

    @rule(which=st.sampled_from(["dsp", "kts", "both"]))
    def restart_some(self, which):
        self.restart(which)

    @rule(pick=picks, at=st.integers(0, 10**6), flip=st.integers(0, 255))
    @precondition(lambda self: self.wire[Upload])
    def submit_damaged(self, pick, at, flip):
        upload = self.picked(Upload, pick)
        at %= len(upload)
        # A flip of nothing cuts the message instead.
        tail = bytes([upload[at] ^ flip]) + upload[at + 1 :] if flip else b""
        self.refuses(upload[:at] + tail)

    @rule(pick=picks, bit=st.integers(0, 7), forge=st.sampled_from(["body", "proof"]))
    @precondition(lambda self: self.wire[Upload] and self.suite != "plain")
    def submit_forged(self, pick, bit, forge):
        """Sign something malformed oneself, under a number that is free."""
        honest = self.arrives(Upload, pick)
        number = self.participants[honest.header.sender].state().sequence
        self.participants[honest.header.sender]._state.sequence += 1
        header = msgspec.structs.replace(honest.header, sequence=number)
        last = honest.parts[-1]
        flipped = last[:-1] + bytes([last[-1] ^ 1 << bit])
        parts = (*honest.parts[:-1], flipped) if forge == "body" else honest.parts
        forged = seal(
            header,
            self.secrets[header.sender].signing,
            parts,
            prove=lambda _: honest.proof,
        )
        self.refuses(forged.encode())
        sent = Sent(header.sender, number, header.base_version, b"", forged.digest)
        self.reference_dsp.refuse(sent)

    @rule(kind=st.sampled_from([Upload, Receipt, Release]), pick=picks, name=names)
    def pass_off_a_message_as_somebody_elses(self, kind, pick, name):
        real = self.arrives(kind, pick)
        if real is None or real.header.sender == name:
            return
        forged = seal(
            real.header,
            self.secrets[name].signing,
            real.parts,
            prove=lambda _: real.proof,
        )
        step = {
            Upload: self.dsp.admit,
            Receipt: self.dsp.confirm,
            Release: self.dsp.record,
        }
        assert outcome(step[kind], forged)[0] == "SignatureError"

    def teardown(self):
        """Let everything arrive: nobody is stuck, and all come to the same weights."""
        self.forward_what_is_unconfirmed()
        for release in self.signed[self.reference_dsp.version :]:
            self.record(self.carry(seal(release, self.secrets["kts"].signing)))
        for name in NAMES:
            while self.participants[name].version < self.dsp.version:
                self.pull(name, "nothing")
        weights = {self.weights[name].tobytes() for name in NAMES}
        assert len(weights) == 1


class PlainServers(Servers):
    """The same for suite `plain`, whose KTS sees nothing of an upload."""

    suite = "plain"


def play(machine: type[Servers], runs: int, steps: int, **choices: bool) -> None:
    """Run a machine over random histories."""
    seen.clear()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=runs,
            stateful_step_count=steps,
            deadline=None,
            **choices,
            suppress_health_check=list(HealthCheck),
        ),
    )


def check_that_enough_has_happened(*rare: str) -> None:
    for happening in (
        *("release", "restart", "malformed"),
        *("BackPressure", "EquivocationError", "StaleUploadError", "ReleaseError"),
        *("SignatureError", "TransformError", *rare),
    ):
        assert seen[happening] > 0, f"{happening} never happened"


def test_a_hundred_histories_keep_every_promise():
    play(Servers, 100, 30, derandomize=True)
    check_that_enough_has_happened()


@pytest.mark.slow
def test_two_thousand_random_histories_keep_every_promise():
    play(Servers, 2000, 30)
    check_that_enough_has_happened(
        *("MessageError", "withdrawn", "expired", "SpentUpdateError", "UsedNumberError")
    )


def test_the_promises_are_the_same_where_nothing_is_encrypted():
    play(PlainServers, 30, 30)
