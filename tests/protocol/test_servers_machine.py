"""Both servers of suite `gated` under random histories, beside a reference.

Hypothesis plays everybody else: honest and lying participants, a network that loses,
repeats, reorders and damages messages, a DSP that orders lists it should not, restarts
between any two steps. After every step both servers must stand where the reference
stands, and what was promised must hold.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from functools import cache, reduce
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hre_torch.crypto.modulus import load_profile
from hre_torch.crypto.signatures import SigningKey
from hre_torch.errors import HREError
from hre_torch.protocol.data_service import DataServiceProvider
from hre_torch.protocol.envelope import Envelope, decode, seal
from hre_torch.protocol.evidence import check_evidence
from hre_torch.protocol.key_transform import KeyTransformServer
from hre_torch.protocol.ledger import GENESIS
from hre_torch.protocol.messages import (
    Deposit,
    Receipt,
    Release,
    ReleaseOrder,
    Upload,
)
from hre_torch.protocol.participant import LearningParticipant
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task, TaskConfig, sign_task, state_digest
from hre_torch.protocol.workers import Workers
from tests.protocol.reference_servers import ReferenceServer, Sent

NAMES = ("a", "b", "c", "d")
N_VALUES = 3
RULES = {"t": 3, "K": 6, "Q": 2, "S": 1}
ZERO = np.zeros(N_VALUES, dtype=np.int64)
MAX_BYTES = 10**6

names = st.sampled_from(NAMES)
updates = st.lists(st.integers(-127, 127), min_size=N_VALUES, max_size=N_VALUES)
picks = st.integers(0, 99)
"""Which message of those that have crossed a link; 0 is the newest."""

seen: Counter[str] = Counter()
"""What has happened in all runs of a test, so that it can tell whether enough has."""


@cache
def world(suite: str) -> tuple[Task, dict[str, Any]]:
    """Return a task and everybody's secrets."""
    parameters = load_profile("toy-insecure")
    operator = SigningKey(bytes(32))
    secrets, roster = SUITES.get(suite).setup(
        NAMES, parameters, operator=operator.public
    )
    config = TaskConfig(
        suite=suite,
        profile="toy-insecure",
        parameters_digest=parameters.digest,
        value_bits=8,
        min_contributions=RULES["t"],
        max_additions=RULES["K"],
        pending_limit=RULES["Q"],
        staleness_bound=RULES["S"],
        assumed_colluders=1,
        combine="sum",
        n_params=N_VALUES,
        layout_digest=bytes(32),
        initial_digest=state_digest(ZERO),
        roster_digest=roster.digest(),
    )
    return Task(config, roster, parameters, sign_task(config, operator)), secrets


def of_two_identities(reference: ReferenceServer, keys: list[bytes]) -> list[bytes]:
    pair = sorted({reference.find(key).name for key in keys})[:2]
    return [key for key in keys if reference.find(key).name in pair]


def left_out(reference: ReferenceServer, keys: list[bytes]) -> list[bytes]:
    return [sent.key for sent in reference.waiting() if sent.key not in keys]


CORRUPTIONS = {
    "few": lambda reference, keys: (1, of_two_identities(reference, keys)),
    "twice": lambda reference, keys: (1, keys),
    "released": lambda reference, keys: (1, sorted(reference.gone())),
    "unknown": lambda reference, keys: (1, [bytes(32)]),
    "others": lambda reference, keys: (1, left_out(reference, keys)),
    "expire": lambda reference, keys: (1, keys),
    "old version": lambda reference, keys: (0, []),
    "far version": lambda reference, keys: (2, []),
}
"""Ways to break a list: how far ahead its version is, and keys to break it with.

"others" are uploads that the honest list passes over: pending ones, those that are too
old, and those computed on another model.
"""


def outcome(step, *arguments) -> tuple[str | None, Any]:
    """Return the name of the error that a step raised, or None and its result."""
    try:
        return None, step(*arguments)
    except HREError as error:
        seen[type(error).__name__] += 1
        return type(error).__name__, None


class Servers(RuleBasedStateMachine):
    """DSP and KTS, and everybody who talks to them."""

    suite = "gated"

    def __init__(self) -> None:
        super().__init__()
        self.task, self.secrets = world(self.suite)
        self.dsp = self.start(DataServiceProvider)
        self.kts = self.start(KeyTransformServer)
        first = self.task.config.initial_digest
        self.reference_dsp = ReferenceServer(NAMES, **RULES, first_model=first)
        self.reference_kts = ReferenceServer(NAMES, **RULES, first_model=first)
        self.participants = {
            name: LearningParticipant(self.task, self.secrets[name], Workers())
            for name in NAMES
        }
        self.weights = dict.fromkeys(NAMES, ZERO)
        self.wire: dict[type, list[bytes]] = defaultdict(list)
        self.sent: dict[bytes, tuple[Sent, np.ndarray]] = {}
        self.heads: dict[bytes, tuple[int, ...]] = {}
        self.signed: list[Release] = []
        self.accused: dict[str, set[str]] = {"dsp": set(), "kts": set()}

    def start(self, role, state: Any = None):
        name = "dsp" if role is DataServiceProvider else "kts"
        return role(self.task, self.secrets[name], Workers(), state=state)

    def carry(self, envelope: Envelope) -> Envelope:
        """Put a message on the wire, where it stays, and return what arrives."""
        data, kind = envelope.encode(), type(envelope.header)
        self.wire[kind].append(data)
        received = self.receive(data, kind)
        assert received == envelope
        return received

    def receive(self, data: bytes, kind: type) -> Envelope:
        return decode(data, kind, cfg=self.task.cfg, max_bytes=MAX_BYTES)

    def picked(self, kind: type, pick: int) -> bytes:
        """Return a message of a kind that has crossed a link, perhaps long ago."""
        messages = self.wire[kind]
        return messages[-1 - pick % len(messages)]

    def arrives(self, kind: type, pick: int) -> Envelope | None:
        """Return such a message decoded, if there is one."""
        if not self.wire[kind]:
            return None
        return self.receive(self.picked(kind, pick), kind)

    # Participants: honest, forgetful, lying.

    def make(self, name: str, values: list[int], base: int, model: bytes) -> Envelope:
        update = np.array(values, dtype=np.int32)
        upload = self.participants[name].seal(update, base, model)
        sent = Sent(name, upload.header.sequence, base, model, upload.digest)
        self.sent[upload.digest] = sent, update.astype(np.int64)
        return self.carry(upload)

    def honest(self, name: str, values: list[int]) -> Envelope:
        model = state_digest(self.weights[name])
        return self.make(name, values, self.participants[name].version, model)

    def lying(self, name: str, values: list[int], lie: int) -> Envelope:
        model = bytes(31) + bytes([lie])
        return self.make(name, values, self.participants[name].version, model)

    @rule(name=names, values=updates)
    def seal(self, name, values):
        self.honest(name, values)

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
        again = self.make(said.name, values, said.base, said.model)
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

    def submit(self, upload: Envelope) -> Envelope | None:
        said, _ = self.sent[upload.digest]
        if self.reference_dsp.contradicts(said):
            self.accused["dsp"].add(said.name)
        expected = self.reference_dsp.enter(said)
        error, deposit = outcome(self.dsp.admit, upload)
        assert error == expected
        return None if error else self.carry(deposit)

    @rule(pick=picks, told=st.booleans())
    def forward_something(self, pick, told):
        deposit = self.arrives(Deposit, pick)
        if deposit is not None:
            self.forward(deposit, told=told)

    def forward(self, deposit: Envelope, *, told: bool = True) -> Envelope | None:
        inner = deposit.header
        said, _ = self.sent[
            Envelope(None, inner.upload_header, (), inner.upload_proof, b"").digest
        ]
        if self.reference_kts.contradicts(said):
            self.accused["kts"].add(said.name)
        expected = self.reference_kts.enter(said)
        error, receipt = outcome(self.kts.deposit, deposit)
        assert error == expected
        if error is None:
            self.reference_kts.accept(said.key)
            self.keep_heads(said.key, deposit.parts)
            return self.carry(receipt)
        if told and self.is_pending(said.key):
            seen["withdrawn"] += 1
            self.dsp.withdraw(said.key)
            self.reference_dsp.withdraw(said.key)
        return None

    @rule(pick=picks)
    def confirm_something(self, pick):
        receipt = self.arrives(Receipt, pick)
        if receipt is not None:
            self.confirm(receipt)

    def confirm(self, receipt: Envelope) -> None:
        error, ack = outcome(self.dsp.confirm, receipt)
        assert error == self.reference_dsp.accept(receipt.header.upload)
        assert error or ack.header.upload == receipt.header.upload

    def is_pending(self, key: bytes) -> bool:
        reference = self.reference_dsp
        waiting = {sent.key for sent in reference.waiting()}
        return key in waiting and key not in reference.accepted

    def keep_heads(self, key: bytes, parts: tuple[bytes, ...]) -> None:
        width = self.task.parameters.element_bytes
        if parts:
            self.heads[key] = tuple(
                int.from_bytes(parts[0][i : i + width], "big")
                for i in range(0, len(parts[0]), width)
            )

    # The same steps in the right order, as mostly happens.

    def settle(self, deposit: Envelope | None) -> None:
        receipt = None if deposit is None else self.forward(deposit)
        if receipt is not None:
            self.confirm(receipt)

    @rule(name=names, values=updates)
    def push(self, name, values):
        self.settle(self.submit(self.honest(name, values)))

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
    def release(self, without):
        """Release all that can be, perhaps all but what one participant sent."""
        order = self.proposed()
        if order is None:
            return
        if without is not None:
            kept = [
                key for key in order.header.uploads if self.sent[key][0].name != without
            ]
            header = msgspec.structs.replace(order.header, uploads=tuple(kept))
            order = self.carry(seal(header, self.secrets["dsp"].signing))
        release = self.approve(order)
        if release is not None:
            self.record(release)

    @rule()
    def forward_what_is_unconfirmed(self):
        deposits = self.dsp.unconfirmed()
        assert len(deposits) == sum(map(self.is_pending, self.sent))
        for deposit in deposits:
            self.settle(self.carry(deposit))

    # Releases.

    @rule()
    def propose(self):
        self.proposed()

    def proposed(self) -> Envelope | None:
        order = self.dsp.propose()
        expected = self.reference_dsp.proposal()
        if order is None:
            assert expected is None
            return None
        header = order.header
        assert (list(header.uploads), list(header.expired)) == expected
        return self.carry(order)

    @rule(how=st.sampled_from(sorted(CORRUPTIONS)), pick=picks)
    def order_what_should_not_be(self, how, pick):
        """Take the list that an honest DSP would send, and break one rule."""
        proposal = self.reference_dsp.proposal()
        if proposal is None:
            return
        uploads, expired = proposal
        ahead, candidates = CORRUPTIONS[how](self.reference_dsp, uploads)
        if how == "few":
            uploads = candidates
        elif how == "expire":
            expired = [*expired, candidates[pick % len(candidates)]]
            uploads = [key for key in uploads if key != expired[-1]]
        elif candidates:
            uploads = [*uploads[:5], candidates[pick % len(candidates)]]
        order = ReleaseOrder(
            cfg=self.task.cfg,
            sender="dsp",
            version=self.reference_dsp.version + ahead,
            uploads=tuple(uploads),
            expired=tuple(expired),
        )
        self.approve(self.carry(seal(order, self.secrets["dsp"].signing)))

    @rule(pick=picks)
    def approve_something(self, pick):
        order = self.arrives(ReleaseOrder, pick)
        if order is not None:
            self.approve(order)

    def approve(self, order: Envelope) -> Envelope | None:
        header, reference = order.header, self.reference_kts
        error, release = outcome(self.kts.approve, order)
        if header.version == reference.version > 0:
            assert release.header == self.signed[-1]
            return self.carry(release)
        uploads, expired = list(header.uploads), list(header.expired)
        if not reference.release(header.version, uploads, expired):
            assert error == "ReleaseError"
            return None
        assert error is None
        seen["release"] += 1
        seen["expired"] += len(expired)
        self.signed.append(release.header)
        return self.carry(release)

    @rule(pick=picks)
    def record_something(self, pick):
        release = self.arrives(Release, pick)
        if release is not None:
            self.record(release)

    def record(self, release: Envelope) -> None:
        header, reference = release.header, self.reference_dsp
        error, _ = outcome(self.dsp.record, release)
        if header.version == reference.version:
            assert error is None
            return
        uploads = [item.digest for item in header.uploads]
        expired = [item.digest for item in header.expired]
        allowed = reference.release(header.version, uploads, expired)
        assert error == (None if allowed else "ReleaseError")

    # Key transforms.

    @rule(name=names, lost=st.sampled_from(["nothing", "request", "reply", "download"]))
    def pull(self, name, lost):
        participant = self.participants[name]
        since = participant.version
        wanted = self.dsp.next_range(name, since)
        if since == self.reference_dsp.version:
            assert wanted is None
            return
        assert wanted == (since + 1, since + 1)
        request = self.dsp.begin(name, *wanted)
        if lost == "request":
            return
        reply = self.kts.transform(request)
        if lost == "reply":
            return
        download = self.dsp.finish(reply)
        assert outcome(self.dsp.finish, reply)[0] == "TransformError"
        if lost == "download":
            return
        opened = participant.open(download.encode())
        uploads, _ = self.reference_dsp.lists[since]
        total = sum((self.sent[key][1] for key in uploads), start=ZERO)
        assert [item.digest for item in opened.uploads] == uploads
        assert (opened.values == total).all()
        self.weights[name] = self.weights[name] + total

    # Mishaps and malice.

    @rule(which=st.sampled_from(["dsp", "kts", "both"]))
    def restart(self, which):
        seen["restart"] += 1
        for name, role in (("dsp", DataServiceProvider), ("kts", KeyTransformServer)):
            if which in (name, "both"):
                state = getattr(self, name).state()
                encoded = msgspec.msgpack.encode(state)
                again = msgspec.msgpack.decode(encoded, type=type(state))
                setattr(self, name, self.start(role, again))
                assert getattr(self, name).state() == state

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
        header = msgspec.structs.replace(honest.header, sequence=10**6)
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

    def refuses(self, data: bytes) -> None:
        before = self.dsp.state()
        with pytest.raises(HREError):
            self.dsp.admit(self.receive(data, Upload))
        assert self.dsp.state() == before
        seen["malformed"] += 1

    # What must hold after every step.

    @invariant()
    def both_servers_stand_where_the_reference_stands(self):
        pairs = ((self.dsp, self.reference_dsp), (self.kts, self.reference_kts))
        for server, reference in pairs:
            state = server.state().ledger
            assert state.version == reference.version
            assert [entry.digest for entry in state.entries] == [
                sent.key for sent in reference.log
            ]
            waiting = {sent.key for sent in reference.waiting()}
            assert server.state().uploads.keys() == waiting
            expired = {key for _, part in reference.lists for key in part}
            for entry in state.entries:
                if entry.digest not in reference.gone():
                    accepted = entry.digest in reference.accepted
                    assert entry.status == ("accepted" if accepted else "pending")
                else:
                    lost = entry.digest in expired
                    assert entry.status == ("expired" if lost else "released")

    @invariant()
    def every_release_has_t_identities_and_no_upload_is_named_twice(self):
        named = [
            item.digest
            for release in self.signed
            for item in (*release.uploads, *release.expired)
        ]
        assert len(named) == len(set(named))
        for release in self.signed:
            identities = {self.sent[item.digest][0].name for item in release.uploads}
            assert len(identities) >= RULES["t"]
            assert len(release.uploads) <= RULES["K"]

    @invariant()
    def the_chain_recomputes(self):
        chain = GENESIS
        for version, release in enumerate(self.signed, start=1):
            assert (release.version, release.previous) == (version, chain)
            lists = [
                [[item.name, item.sequence, item.digest] for item in part]
                for part in (release.uploads, release.expired)
            ]
            listed = msgspec.msgpack.encode([version, *lists, release.commitment])
            chain = hashlib.sha256(chain + listed).digest()
            assert release.chain == chain
        for server in (self.dsp, self.kts):
            version = server.version
            assert server.state().ledger.chain == (
                self.signed[version - 1].chain if version else GENESIS
            )

    @invariant()
    def the_product_of_the_logged_heads_is_what_the_kts_holds(self):
        if self.suite != "gated":
            return
        n_squared = int(self.task.parameters.n_squared)
        width = self.task.parameters.element_bytes
        for server in (self.kts, self.dsp):
            for version, kept in server.state().releases.items():
                logged = [
                    self.heads[item.digest] for item in self.signed[version - 1].uploads
                ]
                products = [
                    reduce(lambda x, y: x * y % n_squared, heads)
                    for heads in zip(*logged, strict=True)
                ]
                encoded = b"".join(x.to_bytes(width, "big") for x in products)
                assert kept.total[0] == encoded

    @invariant()
    def participants_at_one_version_have_equal_weights(self):
        expected = [ZERO]
        for uploads, _ in self.reference_kts.lists:
            total = sum((self.sent[key][1] for key in uploads), start=ZERO)
            expected.append(expected[-1] + total)
        for name, participant in self.participants.items():
            assert (self.weights[name] == expected[participant.version]).all()

    @invariant()
    def everybody_who_contradicted_themselves_is_accused_and_nobody_else(self):
        for server, accused in (
            (self.dsp, self.accused["dsp"]),
            (self.kts, self.accused["kts"]),
        ):
            assert {evidence.accused for evidence in server.evidence} == accused
            for evidence in server.evidence:
                check_evidence(evidence, self.task)

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


def play(machine: type[Servers], runs: int, steps: int) -> None:
    """Run a machine over random histories."""
    seen.clear()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=runs,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def check_that_enough_has_happened() -> None:
    for happening in (
        *("release", "expired", "restart", "malformed", "withdrawn"),
        *("BackPressure", "EquivocationError", "StaleUploadError", "ReleaseError"),
        *("SignatureError", "TransformError"),
    ):
        assert seen[happening] > 0, f"{happening} never happened"


def test_three_hundred_random_histories_keep_every_promise():
    play(Servers, 300, 30)
    check_that_enough_has_happened()


@pytest.mark.slow
def test_two_thousand_random_histories_keep_every_promise():
    play(Servers, 2000, 30)
    check_that_enough_has_happened()


def test_the_promises_are_the_same_where_nothing_is_encrypted():
    play(PlainServers, 60, 30)
