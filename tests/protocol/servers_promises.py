"""What both servers promise, looked at after every step of a random history."""

from __future__ import annotations

import hashlib
from functools import reduce

import msgspec
from hypothesis.stateful import invariant

from hre_torch.protocol.entries import GENESIS
from hre_torch.protocol.evidence import check_evidence
from tests.protocol.servers_play import RULES, ZERO, Play


class Promises(Play):
    """The invariants: everything here must hold at any moment."""

    @invariant()
    def both_servers_stand_where_the_reference_stands(self):
        pairs = ((self.dsp, self.reference_dsp), (self.kts, self.reference_kts))
        for server, reference in pairs:
            state = server.state().ledger
            assert state.version == reference.version
            assert [entry.digest for entry in state.entries] == reference.remembered()
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
