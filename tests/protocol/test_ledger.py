"""The ledger's rules, one by one and under random histories."""

from __future__ import annotations

import contextlib
import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.errors import (
    BackPressure,
    EquivocationError,
    MessageError,
    ReleaseError,
    StaleUploadError,
)
from hre_torch.protocol.entries import Entry
from hre_torch.protocol.ledger import Ledger
from hre_torch.protocol.task import TaskConfig
from tests.tasks import plain_config

NAMES = ("a", "b", "c")
ZERO, ONE, TRUE, LIE = (bytes(31) + bytes([number]) for number in range(4))


def config(**changes) -> TaskConfig:
    values = {
        "max_additions": 6,
        "staleness_bound": 2,
        "max_per_identity": 6,
        "pending_limit": 2,
        # What `entry_of` calls the model of version 0.
        "initial_digest": ZERO,
    }
    made = plain_config(NAMES, 1, min_contributions=2, combine="sum")
    return msgspec.structs.replace(made, **(values | changes))


def digest_of(name: str, sequence: int) -> bytes:
    return hashlib.sha256(f"{name}{sequence}".encode()).digest()


def entry_of(
    name: str,
    sequence: int,
    base: int = 0,
    *,
    model: bytes = ZERO,
    digest: bytes | None = None,
) -> Entry:
    if digest is None:
        digest = digest_of(name, sequence)
    return Entry(name, sequence, base, model, digest)


def enter(ledger: Ledger, name: str, sequence: int, base: int | None = None) -> bytes:
    entry = entry_of(name, sequence, ledger.version if base is None else base)
    ledger.enter(entry)
    ledger.accept(entry.digest)
    return entry.digest


def release(ledger: Ledger) -> None:
    proposal = ledger.propose()
    assert proposal is not None
    ledger.release(proposal)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(config(), NAMES)


def test_nothing_is_proposed_before_t_identities_have_accepted_uploads(ledger):
    enter(ledger, "a", 0)
    enter(ledger, "a", 1)
    assert ledger.propose() is None
    ledger.enter(entry_of("b", 0))
    assert ledger.propose() is None
    ledger.accept(digest_of("b", 0))
    proposal = ledger.propose()
    assert [entry.listed().name for entry in proposal.uploads] == ["a", "a", "b"]


def test_the_same_upload_twice_is_one_entry(ledger):
    assert ledger.enter(entry_of("a", 0)) is ledger.enter(entry_of("a", 0))
    assert len(ledger.unreleased()) == 1


def test_another_upload_with_the_same_number_is_equivocation(ledger):
    enter(ledger, "a", 0)
    with pytest.raises(EquivocationError, match="identical bytes"):
        ledger.enter(entry_of("a", 0, digest=b"other"))


def test_a_number_before_the_newest_is_refused(ledger):
    enter(ledger, "a", 5)
    with pytest.raises(EquivocationError, match="continue with 6"):
        ledger.enter(entry_of("a", 4))


def test_a_stranger_is_refused(ledger):
    with pytest.raises(ReleaseError, match="not in the roster"):
        ledger.enter(entry_of("mallory", 0))


def test_more_than_q_unreleased_uploads_are_refused_until_a_release(ledger):
    enter(ledger, "a", 0)
    enter(ledger, "a", 1)
    with pytest.raises(BackPressure, match="2 unreleased"):
        enter(ledger, "a", 2)
    enter(ledger, "b", 0)
    release(ledger)
    enter(ledger, "a", 2)


@pytest.mark.parametrize(("base", "advice"), [(-1, "pull"), (1, "an old copy")])
@pytest.mark.parametrize("bound", [0, 5])
def test_weights_from_the_future_or_before_the_start_are_refused(base, advice, bound):
    ledger = Ledger(config(staleness_bound=bound), NAMES)
    with pytest.raises(StaleUploadError, match=advice):
        enter(ledger, "a", 0, base=base)


def test_an_upload_that_grew_too_old_expires_with_the_next_release(ledger):
    old = enter(ledger, "c", 0)
    for sequence in range(4):
        enter(ledger, "a", sequence)
        enter(ledger, "b", sequence)
        proposal = ledger.propose()
        kept = tuple(entry for entry in proposal.uploads if entry.name != "c")
        ledger.release(type(proposal)(kept, proposal.expired))
    assert ledger.find(old).status == "expired"
    assert ledger.find(old).version == 4


def test_a_list_with_a_stale_upload_is_refused(ledger):
    old = enter(ledger, "c", 0)
    for sequence in range(3):
        uploads = [enter(ledger, "a", sequence), enter(ledger, "b", sequence)]
        ledger.release(ledger.check(sequence + 1, uploads, []))
    uploads = [enter(ledger, "a", 3), old]
    with pytest.raises(ReleaseError, match="must be expired"):
        ledger.check(4, uploads, [])


def test_a_fresh_upload_cannot_be_declared_expired(ledger):
    uploads = [enter(ledger, "a", 0), enter(ledger, "b", 0)]
    victim = enter(ledger, "c", 0)
    with pytest.raises(ReleaseError, match="must be released"):
        ledger.check(1, uploads, [victim])


@pytest.mark.parametrize(
    ("pick", "reason"),
    [
        (lambda u: (2, u, []), "next release is version 1"),
        (lambda u: (1, [u[0], u[0], u[1]], []), "twice"),
        (lambda u: (1, u, [u[0]]), "twice"),
        (lambda u: (1, u[:1], []), "distinct identities"),
        (lambda u: (1, [*u, b"unknown"], []), "never entered"),
    ],
)
def test_a_list_that_breaks_a_rule_is_refused_and_changes_nothing(ledger, pick, reason):
    uploads = [enter(ledger, "a", 0), enter(ledger, "b", 0)]
    with pytest.raises(ReleaseError, match=reason):
        ledger.check(*pick(uploads))
    assert ledger.version == 0
    release(ledger)


def test_a_pending_upload_cannot_be_released(ledger):
    accepted = enter(ledger, "a", 0)
    ledger.enter(entry_of("b", 0))
    with pytest.raises(ReleaseError, match="is pending"):
        ledger.check(1, [accepted, digest_of("b", 0)], [])


def test_an_upload_is_never_released_twice(ledger):
    uploads = [enter(ledger, "a", 0), enter(ledger, "b", 0)]
    ledger.release(ledger.check(1, uploads, []))
    with pytest.raises(ReleaseError, match="released in version 1"):
        ledger.check(2, uploads, [])


def test_a_list_takes_the_oldest_m_uploads_of_each_and_the_others_wait():
    ledger = Ledger(config(max_per_identity=1, pending_limit=3), NAMES)
    for name, sequence in (("a", 0), ("a", 1), ("b", 0), ("a", 2)):
        enter(ledger, name, sequence)
    proposal = ledger.propose()
    assert proposal.listed_uploads() == tuple(
        entry_of(name, 0).listed() for name in ("a", "b")
    )
    ledger.release(proposal)
    assert ledger.propose() is None
    enter(ledger, "b", 1, base=0)
    assert [entry.sequence for entry in ledger.propose().uploads] == [1, 1]


def test_a_list_with_more_than_m_uploads_of_one_identity_is_refused():
    ledger = Ledger(config(max_per_identity=1), NAMES)
    for name, sequence in (("a", 0), ("a", 1), ("b", 0)):
        enter(ledger, name, sequence)
    with pytest.raises(ReleaseError, match="at most m = 1 uploads of one identity"):
        ledger.check(1, [digest_of("a", 0), digest_of("a", 1), digest_of("b", 0)], [])
    ledger.check(1, [digest_of("a", 0), digest_of("b", 0)], [])


def test_more_than_k_uploads_wait_for_the_next_release():
    ledger = Ledger(config(max_additions=3, pending_limit=3), NAMES)
    enter(ledger, "a", 0)
    enter(ledger, "a", 1)
    enter(ledger, "b", 0)
    enter(ledger, "c", 0)
    assert len(ledger.propose().uploads) == 3
    with pytest.raises(ReleaseError, match="at most K = 3"):
        ledger.check(1, [entry.digest for entry in ledger.unreleased()], [])


def test_a_restored_ledger_goes_on_where_the_first_stopped(ledger):
    enter(ledger, "a", 0)
    enter(ledger, "b", 0)
    release(ledger)
    enter(ledger, "a", 1)
    encoded = msgspec.msgpack.encode(ledger.state())
    state = msgspec.msgpack.decode(encoded, type=type(ledger.state()))
    restored = Ledger(config(), NAMES, state)
    for each in (ledger, restored):
        enter(each, "b", 1)
        release(each)
    assert restored.chain == ledger.chain
    assert restored.state() == ledger.state()
    with pytest.raises(EquivocationError):
        restored.enter(entry_of("a", 0, digest=b"replayed"))


def test_a_list_that_mixes_two_models_of_one_version_is_refused(ledger):
    uploads = [enter(ledger, "a", 0), enter(ledger, "b", 0)]
    ledger.release(ledger.check(1, uploads, []))
    mixed = [
        ledger.enter(entry_of("a", 1, 1, model=ONE)).digest,
        ledger.enter(entry_of("b", 1, 1, model=LIE)).digest,
    ]
    for digest in mixed:
        ledger.accept(digest)
    with pytest.raises(ReleaseError, match="another model"):
        ledger.check(2, mixed, [])


def test_an_upload_on_another_model_than_the_common_one_is_refused(ledger):
    with pytest.raises(StaleUploadError, match="another model of version 0"):
        ledger.enter(entry_of("a", 0, model=LIE))
    ledger.release(ledger.check(1, [enter(ledger, "a", 0), enter(ledger, "b", 0)], []))
    settle = [
        ledger.accept(ledger.enter(entry_of(name, 1, 1, model=TRUE)).digest).digest
        for name in ("a", "b")
    ]
    ledger.release(ledger.check(2, settle, []))
    with pytest.raises(StaleUploadError, match="another model of version 1"):
        ledger.enter(entry_of("c", 0, 1, model=LIE))
    assert not ledger.unreleased()


def test_an_upload_that_lost_the_vote_on_its_model_expires_with_the_next_release(
    ledger,
):
    ledger.release(ledger.check(1, [enter(ledger, "a", 0), enter(ledger, "b", 0)], []))
    for name, model in (("c", LIE), ("a", TRUE), ("b", TRUE)):
        entry = entry_of(name, 1, 1, model=model)
        ledger.accept(ledger.enter(entry).digest)
    release(ledger)
    for name in ("a", "b"):
        ledger.accept(ledger.enter(entry_of(name, 2, 2)).digest)
    release(ledger)
    assert ledger.find(digest_of("c", 1)).status == "expired"


def test_a_pending_upload_can_be_withdrawn_but_its_number_stays_used(ledger):
    ledger.enter(entry_of("a", 0))
    ledger.withdraw(digest_of("a", 0))
    assert not ledger.unreleased()
    with pytest.raises(EquivocationError, match="continue with 1"):
        ledger.enter(entry_of("a", 0))
    accepted = enter(ledger, "a", 1)
    for digest in (accepted, b"unknown"):
        with pytest.raises(ReleaseError, match="only a pending one"):
            ledger.withdraw(digest)


def test_most_identities_decide_which_model_of_a_version_is_released(ledger):
    ledger.release(ledger.check(1, [enter(ledger, "a", 0), enter(ledger, "b", 0)], []))
    for name, model in (("c", LIE), ("a", TRUE), ("b", TRUE)):
        entry = entry_of(name, 1, 1, model=model)
        ledger.accept(ledger.enter(entry).digest)
    assert {entry.name for entry in ledger.propose().uploads} == {"a", "b"}


def named(ledger: Ledger, name: str, number: int, base: int, *run: bytes) -> bytes:
    """Enter and accept an upload that names these models, the last one of `base`."""
    entry = entry_of(name, number, base, model=b"".join(run))
    ledger.accept(ledger.enter(entry).digest)
    return entry.digest


def after(releases: int, **changes) -> Ledger:
    """Return a ledger after releases of a and b, who name as little as they can."""
    ledger = Ledger(config(**changes), NAMES)
    for number in range(releases):
        base, model = (number - 1, TRUE) if number > 1 else (0, ZERO)
        pair = [named(ledger, name, number, base, model) for name in "ab"]
        ledger.release(ledger.check(number + 1, pair, []))
    return ledger


@pytest.mark.parametrize("run", [TRUE[:-1], TRUE + TRUE[:1], TRUE * 4])
def test_a_header_that_names_too_many_models_or_part_of_one_is_refused(run):
    with pytest.raises(MessageError, match="names 1 to 3"):
        after(2, staleness_bound=2).enter(entry_of("c", 0, 2, model=run))


def test_a_header_that_names_models_from_before_the_start_is_refused():
    with pytest.raises(MessageError, match="names 1 to 1"):
        after(0).enter(entry_of("c", 0, 0, model=TRUE + ZERO))


def test_one_who_is_held_back_by_s_versions_still_names_a_common_one():
    ledger = after(4, assumed_colluders=2)
    held_back = named(ledger, "c", 0, 2, ZERO, ONE, LIE)
    ahead = named(ledger, "a", 4, 4, TRUE, ONE, TRUE)
    with pytest.raises(ReleaseError, match=r"another model .* of version 2"):
        ledger.check(5, [held_back, ahead], [])


def test_a_list_that_disagrees_about_an_older_version_is_refused():
    ledger = after(2)
    pair = [named(ledger, "a", 2, 2, TRUE, ONE), named(ledger, "b", 2, 2, LIE, ONE)]
    with pytest.raises(ReleaseError, match=r"another model .* of version 1"):
        ledger.check(3, pair, [])
    assert ledger.propose() is None


def test_who_is_first_to_name_a_false_model_settles_nothing_and_stops_nobody():
    """Attack A16: one of c colluders, and honest uploads after its own."""
    ledger = after(1, assumed_colluders=1)
    first = [named(ledger, "c", 0, 1, LIE), named(ledger, "a", 1, 0, ZERO)]
    ledger.release(ledger.check(2, first, []))
    assert ledger.settled() == (0, ZERO)
    for name in "ab":
        named(ledger, name, 2, 1, TRUE)
    assert {entry.name for entry in ledger.propose().uploads} == {"a", "b"}
    release(ledger)
    assert ledger.settled() == (1, TRUE)
    with pytest.raises(StaleUploadError, match="another model of version 1"):
        named(ledger, "c", 1, 2, LIE, ONE)


def test_the_largest_set_that_agrees_is_proposed_and_the_rest_waits():
    ledger = after(1, max_additions=5, assumed_colluders=1)
    for name, run in (("c", (LIE,)), ("a", (ZERO, TRUE)), ("b", (TRUE,))):
        named(ledger, name, 5, 1, *run)
    named(ledger, "a", 6, 0, ZERO)
    listed = [(e.name, e.sequence) for e in ledger.propose().uploads]
    assert listed == [("a", 5), ("b", 5), ("a", 6)]
    release(ledger)
    assert [entry.name for entry in ledger.unreleased()] == ["c"]


histories = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.integers(0, 15)),
    max_size=30,
)
"""Who uploads, how far behind the newest version, which models it names falsely."""


@given(histories, st.integers(0, 1))
def test_no_list_disagrees_and_what_is_settled_never_changes(history, colluders):
    rules = {"assumed_colluders": colluders, "pending_limit": 5, "max_additions": 20}
    ledger = Ledger(config(**rules), "abcd")
    settled: dict[int, bytes] = {}
    for number, (name, behind, lies) in enumerate(history):
        base = max(0, ledger.version - behind)
        run = [
            LIE if lies >> (base - version) & 1 else TRUE if version else ZERO
            for version in range(max(0, base - 2), base + 1)
        ]
        with contextlib.suppress(BackPressure, StaleUploadError):
            named(ledger, name, number, base, *run)
        proposal = ledger.propose()
        if proposal is None:
            continue
        digests = [
            [e.digest for e in part] for part in msgspec.structs.astuple(proposal)
        ]
        assert ledger.check(ledger.version + 1, *digests) == proposal
        said = {pair for entry in proposal.uploads for pair in entry.models()}
        assert len(said) == len({version for version, _ in said})
        ledger.release(proposal)
        ledger.forget(dict.fromkeys("abcd", ledger.version))
        version, digest = ledger.settled()
        assert settled.setdefault(version, digest) == digest
        # A restart knows the same, and what it keeps does not grow with history.
        state = ledger.state()
        ledger = Ledger(config(**rules), "abcd", ledger.state())
        assert ledger.state() == state
        assert len(state.models) <= 2 * 2 + 2


@given(st.lists(st.sampled_from(NAMES), max_size=40), st.integers(1, 3))
def test_every_release_has_t_identities_and_nothing_is_released_twice(names, t):
    ledger = Ledger(config(min_contributions=t), NAMES)
    sequence = dict.fromkeys(NAMES, 0)
    seen: set[bytes] = set()
    for name in names:
        try:
            enter(ledger, name, sequence[name])
        except BackPressure:
            assert ledger.waiting(name) == 2
            continue
        sequence[name] += 1
        proposal = ledger.propose()
        if proposal is None:
            continue
        digests = {entry.digest for entry in proposal.uploads}
        assert len({entry.name for entry in proposal.uploads}) >= t
        assert not digests & seen
        seen |= digests
        ledger.release(proposal)
    waiting = {entry.digest for entry in ledger.unreleased()}
    assert waiting.isdisjoint(seen)
    assert len(waiting | seen) == sum(sequence.values())


def test_lines_are_bounded_even_of_one_who_never_says_what_it_has_opened(ledger):
    for sequence in range(12):
        enter(ledger, "a", sequence)
        enter(ledger, "b", sequence)
        release(ledger)
        ledger.forget({"a": 0, "b": ledger.version, "c": 0})
    lines = [(e.name, e.sequence) for e in ledger.state().entries]
    # S = 2 lists are recent; Q = 2 uploads of its own could still be asked about.
    assert [number for name, number in lines if name == "a"] == [10, 11]
    assert [number for name, number in lines if name == "b"] == [10, 11]


def test_the_one_upload_that_may_come_again_is_remembered_till_its_list_is_opened(
    ledger,
):
    asked = enter(ledger, "c", 0)
    for sequence in range(8):
        enter(ledger, "a", sequence)
        enter(ledger, "b", sequence)
        release(ledger)
        ledger.forget({"a": sequence, "b": sequence, "c": 0})
    assert ledger.find(asked).version == 1
    assert ledger.forget({"a": 7, "b": 7, "c": 1})[0].digest == asked
    assert ledger.find(asked) is None
