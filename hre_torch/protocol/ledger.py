"""The ledger that both servers keep: which uploads exist and what became of them.

One ledger serves all suites. Its rules are the protocol's bookkeeping promises: one
digest per (identity, sequence number), sequence numbers that only grow, at most Q
unreleased uploads of one identity, releases of at least t distinct identities with at
most m uploads of each and K in all, nothing released twice, nothing released that is
older than S versions, and one common model per version under everything that is
released.

An upload may void numbers of its sender: the same values were sealed under them before.
Once it is accepted, none of these can be in a list, and once one of them was, it is
refused. So no values are ever in two lists, whatever a participant was told of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from hre_torch.errors import (
    BackPressure,
    EquivocationError,
    MessageError,
    ReleaseError,
    SpentUpdateError,
    StaleUploadError,
    UsedNumberError,
)
from hre_torch.protocol.entries import (
    GENESIS,
    CommonModels,
    Entry,
    EntryIndex,
    LedgerState,
    NamedModels,
    Proposal,
    agreed,
    chain_after,
)
from hre_torch.protocol.task import TaskConfig
from hre_torch.protocol.wire import DIGEST_BYTES

__all__ = ["Ledger"]


class Ledger:
    """Order, uniqueness, release lists and expiry.

    Args:
        config: the task's frozen numbers (t, K, m, Q, S).
        names: the participants in the roster.
        state: where an earlier ledger of the same task stopped, if any.
    """

    def __init__(
        self,
        config: TaskConfig,
        names: Iterable[str],
        state: LedgerState | None = None,
    ) -> None:
        self._config = config
        self.version = state.version if state else 0
        self.chain = state.chain if state else GENESIS
        self._chains = dict(state.chains) if state else {0: GENESIS}
        self._forget_chains()
        self._newest = dict.fromkeys(names, -1) | (state.newest if state else {})
        self._models = CommonModels(config, state.models if state else ())
        self._lines = EntryIndex(names, state.entries if state else [])

    def state(self) -> LedgerState:
        """Return a copy of everything that a restart needs."""
        return LedgerState(
            self.version,
            self.chain,
            self._lines.copies(),
            dict(self._newest),
            self._models.copies(),
            dict(self._chains),
        )

    def settled(self) -> tuple[int, bytes]:
        """Return the newest version whose model is settled, and the model's digest.

        At the start that is version 0. See `CommonModels`.
        """
        return self._models.settled()

    def chain_at(self, version: int) -> bytes | None:
        """Return what the hash chain was at a version, for the newest S and this one.

        None where that is not known any more, or not yet.
        """
        return self._chains.get(version)

    def find(self, digest: bytes) -> Entry | None:
        """Return the entry with that digest, if there is one."""
        return self._lines.find(digest)

    def named(self, name: str, sequence: int) -> bytes | None:
        """Return the digest of the upload with that number, if there is one."""
        return self._lines.named(name, sequence)

    def names(self, version: int) -> bool:
        """Return whether there is still a line of what the list of a version names."""
        return self._lines.consumed_by(version)

    def unreleased(self) -> list[Entry]:
        """Return uploads neither released nor expired, oldest first."""
        return list(self._lines.waiting())

    def accepted(self) -> tuple[bytes, ...]:
        """Return the digests of accepted uploads that no list names, oldest first."""
        waiting = list(self._lines.waiting())
        # The other server may have struck these already, and its receipt be lost.
        voided = {each.digest for entry in waiting for each in self._voided(entry)}
        return tuple(
            entry.digest
            for entry in waiting
            if entry.status == "accepted" and entry.digest not in voided
        )

    def waiting(self, name: str) -> int:
        """Return how many uploads of a participant are neither released nor expired."""
        return self._lines.unreleased(name)

    def next_sequence(self, name: str) -> int:
        """Return the lowest sequence number that a participant has not used."""
        return self._newest[name] + 1

    def namers(self, version: int) -> set[str]:
        """Return who has named a model of a version, in an upload that was not refused.

        Whoever did has opened the releases up to there.
        """
        waiting = {
            entry.name
            for entry in self._lines.waiting()
            if any(named == version for named, _ in entry.models())
        }
        return waiting | self._models.votes(version).keys()

    def models_of(self, version: int) -> dict[str, bytes]:
        """Return which model each identity named of a version in a released list."""
        return self._models.votes(version)

    def check_entry(self, entry: Entry) -> None:
        """Check whether an upload may be entered, changing nothing.

        Raises:
            ReleaseError: the identity is not in the roster.
            MessageError: it names more models than an upload may, or part of one, or
                voids numbers that it cannot.
            EquivocationError: the sequence number carries another upload already.
            UsedNumberError: it lies before the newest one.
            SpentUpdateError: a number that it voids was released.
            StaleUploadError: it is based on weights older than S versions, newer than
                any release, or other than those that have been released.
            BackPressure: the identity has Q unreleased uploads already.
        """
        if self._lines.find(entry.digest) is not None:
            return
        self._check_unused(entry.name, entry.sequence)
        self._check_voids(entry)
        # Before the order of numbers: what was dropped because it is too old and comes
        # again is still just that.
        self._check_base(entry)
        self._check_models(entry)
        self._check_order(entry.name, entry.sequence)
        # What it voids makes room for it, once the other server has it as well.
        freed = [e for e in self._voided(entry) if e.status == "accepted"]
        waiting = self.waiting(entry.name) - len(freed)
        if waiting >= self._config.pending_limit:
            raise BackPressure(
                f"{entry.name!r} has {waiting} unreleased uploads, the task allows "
                f"{self._config.pending_limit}; keep accumulating locally until a "
                "release contains some of them"
            )

    def enter(self, entry: Entry) -> Entry:
        """Log a new upload as pending; the same upload again returns its entry.

        Raises:
            ProtocolError: as `check_entry`.
        """
        self.check_entry(entry)
        known = self._lines.find(entry.digest)
        if known is not None:
            return known
        self._lines.enter(entry)
        self._newest[entry.name] = entry.sequence
        return entry

    def use(self, name: str, sequence: int) -> bool:
        """Use up a number under which an upload was refused; False if it was used."""
        if sequence <= self._newest[name]:
            return False
        self._newest[name] = sequence
        return True

    def strike(self, entry: Entry) -> list[Entry]:
        """Drop the waiting uploads that an upload voids, and return them.

        Those that never came here cannot come later: their numbers lie before its own.
        """
        struck = self._voided(entry)
        for each in struck:
            self._lines.withdraw(each)
        return struck

    def withdraw(self, digest: bytes) -> None:
        """Drop a pending upload that the other server refuses to log.

        Its sequence number stays used.

        Raises:
            ReleaseError: it is not pending.
        """
        entry = self._lines.find(digest)
        if entry is None or entry.status != "pending":
            status = entry.status if entry else "unknown"
            raise ReleaseError(
                f"upload {digest.hex()[:16]} is {status}; only a pending one can be "
                "withdrawn"
            )
        self._lines.withdraw(entry)

    def accept(self, digest: bytes) -> Entry:
        """Mark an upload as accepted by both servers; repeating it changes nothing.

        Raises:
            ReleaseError: no such upload was ever entered.
        """
        entry = self._lines.find(digest)
        if entry is None:
            raise ReleaseError(
                f"upload {digest.hex()[:16]} was never entered here; submit it first"
            )
        self._lines.accept(entry)
        return entry

    def propose(self) -> Proposal | None:
        """Return the next release: the oldest m accepted uploads of each, up to K.

        None while fewer than t distinct identities have an accepted upload that can
        still be released. Uploads that disagree with most about the model of a version
        are passed over; once that model is settled, they expire. What a pending upload
        voids is passed over, too.
        """
        if self._lines.ready() < self._config.min_contributions:
            return None
        waiting = list(self._lines.waiting())
        voided = {
            void.digest
            for entry in waiting
            if entry.status == "pending"
            for void in self._voided(entry)
        }
        accepted = [
            e for e in waiting if e.status == "accepted" and e.digest not in voided
        ]
        expired = tuple(entry for entry in accepted if self._lost(entry))
        lost = {entry.digest for entry in expired}
        fresh = [entry for entry in accepted if entry.digest not in lost]
        uploads = self._oldest(agreed(fresh))
        if len({entry.name for entry in uploads}) < self._config.min_contributions:
            return None
        return Proposal(uploads, expired)

    def check(
        self, version: int, uploads: Sequence[bytes], expired: Sequence[bytes]
    ) -> Proposal:
        """Check a release list against every rule, changing nothing.

        Raises:
            ReleaseError: the list breaks a rule; the message names it.
        """
        if version != self.version + 1:
            raise ReleaseError(
                f"the next release is version {self.version + 1}, not {version}"
            )
        if len(set(uploads) | set(expired)) != len(uploads) + len(expired):
            raise ReleaseError("a release list names an upload twice")
        if len(uploads) > self._config.max_additions:
            raise ReleaseError(
                f"a release holds at most K = {self._config.max_additions} uploads, "
                f"this list has {len(uploads)}"
            )
        proposal = Proposal(
            tuple(self._releasable(digest) for digest in uploads),
            tuple(self._releasable(digest) for digest in expired),
        )
        identities = Counter(entry.name for entry in proposal.uploads)
        if len(identities) < self._config.min_contributions:
            raise ReleaseError(
                f"a release needs uploads of at least t = "
                f"{self._config.min_contributions} distinct identities, this list has "
                f"{len(identities)}"
            )
        name, most = identities.most_common(1)[0]
        if most > self._config.max_per_identity:
            raise ReleaseError(
                f"a release holds at most m = {self._config.max_per_identity} uploads "
                f"of one identity, this list has {most} of {name!r}"
            )
        self._models.check(proposal.uploads)
        for entries, lost in ((proposal.uploads, False), (proposal.expired, True)):
            for entry in entries:
                if self._lost(entry) is not lost:
                    raise ReleaseError(
                        f"upload {entry.sequence} of {entry.name!r} is based on "
                        f"version {entry.base_version}, now is {self.version} and S = "
                        f"{self._config.staleness_bound}: it must be "
                        f"{'released' if lost else 'expired'}"
                    )
        return proposal

    def release(self, proposal: Proposal, commitment: bytes = b"") -> None:
        """Consume a checked proposal: the version and the hash chain move on."""
        self.chain = self.chain_after(proposal, commitment)
        self.version += 1
        self._chains[self.version] = self.chain
        self._forget_chains()
        self._models.settle(proposal.uploads)
        self._lines.consume(proposal, self.version)

    def forget(self, fetched: Mapping[str, int]) -> list[Entry]:
        """Drop lines that nobody will ask about any more, so that memory is bounded.

        Whoever has opened the release that consumed its upload does not send that
        upload again; S releases more leave time for copies that are under way. Who has
        not opened it sends again the one upload whose answer it still waits for: at
        most Q of its uploads were consumed since, so Q lines of each identity are
        enough. Its sequence number stays used, so that it can never be entered a second
        time.

        Args:
            fetched: participant to the last release that it has opened.

        Returns:
            The lines that were dropped.
        """
        oldest = self.version - self._config.staleness_bound
        # Uploads that can still come are based on `oldest` or later, and name as many
        # versions before that.
        self._models.forget(oldest - self._config.staleness_bound)
        return self._lines.forget(fetched, oldest, self._config.pending_limit)

    def changed_models(self) -> tuple[list[NamedModels], list[int]]:
        """Return what releases have said of models since this was last asked.

        Returns:
            What has changed, and the versions that no upload can name any more.
        """
        return self._models.changes()

    def chain_after(self, proposal: Proposal, commitment: bytes = b"") -> bytes:
        """Return what the hash chain will be once a proposal is released."""
        return chain_after(
            self.chain,
            self.version + 1,
            proposal.listed_uploads(),
            proposal.listed_expired(),
            commitment,
        )

    def _oldest(self, entries: Iterable[Entry]) -> tuple[Entry, ...]:
        """Return the oldest m entries of each identity, K in all."""
        taken: Counter[str] = Counter()
        chosen: list[Entry] = []
        for entry in entries:
            if taken[entry.name] < self._config.max_per_identity:
                taken[entry.name] += 1
                chosen.append(entry)
        return tuple(chosen[: self._config.max_additions])

    def _releasable(self, digest: bytes) -> Entry:
        entry = self._lines.find(digest)
        if entry is None:
            raise ReleaseError(f"upload {digest.hex()[:16]} was never entered here")
        if entry.status != "accepted":
            raise ReleaseError(
                f"upload {entry.sequence} of {entry.name!r} is {entry.status}"
                + (f" in version {entry.version}" if entry.version else "")
                + "; a list may name only accepted, unreleased uploads"
            )
        return entry

    def _lost(self, entry: Entry) -> bool:
        """Whether an upload can never be released: too old, or on another model."""
        too_old = self.version - entry.base_version > self._config.staleness_bound
        return too_old or not self._models.admits(entry)

    def _forget_chains(self) -> None:
        oldest = self.version - self._config.staleness_bound
        self._chains = {v: c for v, c in self._chains.items() if v >= oldest}

    def _voided(self, entry: Entry) -> list[Entry]:
        """Return the lines that an upload voids and no list has consumed."""
        digests = [self._lines.named(entry.name, number) for number in entry.voids]
        lines = [self._lines.find(digest) for digest in digests if digest is not None]
        return [line for line in lines if line is not None and line.version == 0]

    def _check_voids(self, entry: Entry) -> None:
        """Check that the numbers that an upload voids are earlier ones, not released.

        An honest owner has opened every list up to the version that the upload is based
        on, and found none of these numbers there; the lines of later lists are all
        kept. S numbers are enough for it: see `PendingUpdates`.
        """
        numbers, most = entry.voids, self._config.staleness_bound
        rising = all(a < b for a, b in pairwise(numbers))
        if numbers and not (rising and numbers[-1] < entry.sequence):
            raise MessageError(
                f"upload {entry.sequence} of {entry.name!r} voids {list(numbers)[:9]}, "
                "which must be earlier numbers, each once and in order"
            )
        if len(numbers) > most:
            raise MessageError(
                f"upload {entry.sequence} of {entry.name!r} voids {len(numbers)} "
                f"numbers, at most S = {most} are allowed"
            )
        for number in numbers:
            digest = self._lines.named(entry.name, number)
            line = None if digest is None else self._lines.find(digest)
            if line is not None and line.status == "released":
                error = SpentUpdateError(
                    f"upload {entry.sequence} of {entry.name!r} voids number {number}, "
                    f"but release {line.version} contains it; pull that release"
                )
                error.listed = line.version
                raise error

    def _check_unused(self, name: str, sequence: int) -> None:
        if name not in self._newest:
            raise ReleaseError(f"{name!r} is not in the roster of this task")
        if self._lines.named(name, sequence) is not None:
            raise EquivocationError(
                f"{name!r} has sent another upload with sequence number {sequence}; a "
                "retry must resend identical bytes"
            )

    def _check_models(self, entry: Entry) -> None:
        octets, most = len(entry.state_digests), self._config.staleness_bound + 1
        count, rest = divmod(octets, DIGEST_BYTES)
        if rest or not 1 <= count <= min(most, entry.base_version + 1):
            raise MessageError(
                f"the upload names models in {octets} octets; digests have "
                f"{DIGEST_BYTES} octets each, and one based on version "
                f"{entry.base_version} names 1 to {min(most, entry.base_version + 1)}"
            )
        contradicted = self._models.contradicted(entry)
        if contradicted is not None:
            raise StaleUploadError(
                f"the upload was computed on another model of version {contradicted} "
                "than the one that is settled: somebody shows participants different "
                "weights; pull, then push again, and compare state hashes if it recurs"
            )

    def _check_order(self, name: str, sequence: int) -> None:
        if sequence <= self._newest[name]:
            raise UsedNumberError(
                f"sequence number {sequence} of {name!r} lies before its newest, "
                f"{self._newest[name]}; continue with {self._newest[name] + 1}"
            )

    def _check_base(self, entry: Entry) -> None:
        base, bound = entry.base_version, self._config.staleness_bound
        if base > self.version:
            raise StaleUploadError(
                f"the upload is based on version {base}, but this server is at version "
                f"{self.version}: its sender, or this server, goes on from an old copy"
            )
        if base < max(0, self.version - bound):
            raise StaleUploadError(
                f"the upload is based on version {base}, but this server is at version "
                f"{self.version} and allows a lag of S = {bound}; pull, then push again"
            )
