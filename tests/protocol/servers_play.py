"""DSP, KTS and participants on a stage where every message can be held and repeated.

Each step is made by the real server and by the reference, and both must agree. What
Hypothesis does with the steps is in `test_servers_machine.py`.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest

from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import HREError
from hre_torch.participant.participant import LearningParticipant
from hre_torch.protocol.entries import GENESIS
from hre_torch.protocol.messages import (
    Release,
    ReleaseOrder,
    Upload,
    named_models,
)
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task, sign_task
from hre_torch.protocol.vectors import state_digest
from hre_torch.protocol.wire import Envelope, decode, seal
from hre_torch.protocol.workers import Workers
from hre_torch.servers.data_service import DataServiceProvider
from hre_torch.servers.key_transform import KeyTransformServer
from tests.protocol.reference_servers import CORRUPTIONS, ReferenceServer, Sent
from tests.tasks import config_for

NAMES = ("a", "b", "c", "d")
N_VALUES = 3
RULES = {"t": 3, "K": 6, "m": 1, "Q": 2, "S": 1, "c": 1}
ZERO = np.zeros(N_VALUES, dtype=np.int64)
MAX_BYTES = 10**6

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
    config = config_for(
        roster,
        parameters,
        ZERO,
        suite=suite,
        value_bits=8,
        min_contributions=RULES["t"],
        max_additions=RULES["K"],
        max_per_identity=RULES["m"],
        pending_limit=RULES["Q"],
        staleness_bound=RULES["S"],
        assumed_colluders=RULES["c"],
        combine="sum",
    )
    return Task(config, roster, parameters, sign_task(config, operator)), secrets


def outcome(step, *arguments) -> tuple[str | None, Any]:
    """Return the name of the error that a step raised, or None and its result."""
    try:
        return None, step(*arguments)
    except HREError as error:
        seen[type(error).__name__] += 1
        return type(error).__name__, None


class Play:
    """The stage: both servers, their references, participants, and what was said."""

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
        self.runs = dict.fromkeys(NAMES, first)
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

    def make(
        self,
        name: str,
        values: list[int],
        base: int,
        run: bytes,
        voids: tuple[int, ...] = (),
    ) -> Envelope:
        update = np.array(values, dtype=np.int32)
        state = self.participants[name]._state
        known, state.chain = state.chain, self.chain_at(base, name)
        upload = self.participants[name].seal(update, base, run, voids)
        state.chain = known
        models = tuple(named_models(base, run))
        foreign = base > self.dsp.version
        number = upload.header.sequence
        sent = Sent(name, number, base, models, upload.digest, voids, foreign)
        self.sent[upload.digest] = sent, update.astype(np.int64)
        return self.carry(upload)

    def chain_at(self, version: int, name: str) -> bytes:
        """Return the hash chain at a version, or what one participant invents."""
        if version > self.dsp.version:
            return hashlib.sha256(name.encode()).digest()
        return self.signed[version - 1].chain if version else GENESIS

    def honest(self, name: str, values: list[int]) -> Envelope:
        return self.make(name, values, self.participants[name].version, self.runs[name])

    def voiding(self, name: str, values: list[int], voids: tuple[int, ...]) -> Envelope:
        base = self.participants[name].version
        return self.make(name, values, base, self.runs[name], voids)

    def lying(self, name: str, values: list[int], lie: int) -> Envelope:
        """Name a false digest of the base version, or of the version before it."""
        base = self.participants[name].version
        false = bytes(31) + bytes([lie])
        run = false + self.runs[name][-32:] if lie and base else false
        return self.make(name, values, base, run)

    def submit(self, upload: Envelope) -> Envelope | None:
        said, _ = self.sent[upload.digest]
        if self.reference_dsp.contradicts(said):
            self.accused["dsp"].add(said.name)
        expected = self.reference_dsp.enter(said)
        error, deposit = outcome(self.dsp.admit, upload)
        assert error == expected
        if error:
            self.reference_dsp.refuse(said)
        return None if error else self.carry(deposit)

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
            self.dsp.withdraw(said.key, HREError())
            self.reference_dsp.withdraw(said.key)
        return None

    def confirm(self, receipt: Envelope) -> None:
        error, ack = outcome(self.dsp.confirm, receipt)
        if error == "BehindError":
            seen["caught up"] += 1
            self.catch_up()
            error, ack = outcome(self.dsp.confirm, receipt)
        assert error == self.reference_dsp.accept(receipt.header.upload)
        assert error or ack.header.upload == receipt.header.upload

    def catch_up(self) -> None:
        """Have the DSP take over what the KTS has signed meanwhile."""
        reference = self.reference_dsp
        assert self.kts.version > reference.version
        self.dsp.compare(self.kts.records(self.dsp.records().header))
        for header in self.signed[reference.version :]:
            uploads = [item.digest for item in header.uploads]
            expired = [item.digest for item in header.expired]
            for key in (*uploads, *expired):
                reference.accept(key)
            assert reference.release(header.version, uploads, expired)

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

    def settle(self, deposit: Envelope | None) -> None:
        receipt = None if deposit is None else self.forward(deposit)
        if receipt is not None:
            self.confirm(receipt)

    def push(self, name, values):
        self.settle(self.submit(self.honest(name, values)))

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

    def proposed(self) -> Envelope | None:
        order = self.dsp.propose()
        expected = self.reference_dsp.proposal()
        if order is None:
            assert expected is None
            return None
        header = order.header
        assert (list(header.uploads), list(header.expired)) == expected
        return self.carry(order)

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

    def pull(self, name, lost):
        participant = self.participants[name]
        since = participant.version
        wanted = self.dsp.next_range(name, since, merge=False)
        self.reference_dsp.opened[name] = since
        if since == self.reference_dsp.version:
            assert wanted is None
            return
        assert wanted == (since + 1, since + 1)
        request = self.dsp.begin(name, *wanted)
        if lost == "request":
            return
        reply = self.kts.transform(request)
        self.reference_kts.opened[name] = since
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
        run = self.runs[name] + state_digest(self.weights[name])
        self.runs[name] = run[-32 * (RULES["S"] + 1) :]

    def restart(self, which):
        seen["restart"] += 1
        for name, role in (("dsp", DataServiceProvider), ("kts", KeyTransformServer)):
            if which in (name, "both"):
                state = getattr(self, name).state()
                encoded = msgspec.msgpack.encode(state)
                again = msgspec.msgpack.decode(encoded, type=type(state))
                setattr(self, name, self.start(role, again))
                assert getattr(self, name).state() == state

    def refuses(self, data: bytes) -> None:
        before = self.dsp.state()
        with pytest.raises(HREError) as refused:
            self.dsp.admit(self.receive(data, Upload))
        after = self.dsp.state()
        if refused.value.upload:
            header = self.receive(data, Upload).header
            after.ledger.newest[header.sender] = before.ledger.newest[header.sender]
        assert after == before
        seen["malformed"] += 1
