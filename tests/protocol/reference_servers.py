"""Both servers' bookkeeping once more: plain Python, no cryptography, no bytes.

Everything is worked out again from what has happened, in order: `log` holds what was
entered, `lists` what was released and expired. Slow and obvious, so that the servers
can be compared with it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sent:
    """What the header of an upload says; `key` stands for all its bytes.

    `models` are pairs of a version and the digest of its model.
    `foreign` says that the history that it names is invented.
    """

    name: str
    number: int
    base: int
    models: tuple[tuple[int, bytes], ...]
    key: bytes
    voids: tuple[int, ...] = ()
    foreign: bool = False


@dataclass
class ReferenceServer:
    """One server's ledger; `t` to `c` and the first model are the task's."""

    names: tuple[str, ...]
    t: int
    K: int
    m: int
    Q: int
    S: int
    c: int
    first_model: bytes
    log: list[Sent] = field(default_factory=list)
    accepted: set[bytes] = field(default_factory=set)
    lists: list[tuple[list[bytes], list[bytes]]] = field(default_factory=list)
    withdrawn: list[Sent] = field(default_factory=list)
    opened: dict[str, int] = field(default_factory=dict)
    forgotten: set[bytes] = field(default_factory=set)

    @property
    def version(self) -> int:
        return len(self.lists)

    def find(self, key: bytes) -> Sent | None:
        return next((sent for sent in self.log if sent.key == key), None)

    def gone(self) -> set[bytes]:
        return {key for pair in self.lists for part in pair for key in part}

    def waiting(self) -> list[Sent]:
        return [sent for sent in self.log if sent.key not in self.gone()]

    def models(self) -> dict[int, bytes]:
        """Return the models that c + 1 identities in lists have named, by version."""
        settled = {0: self.first_model}
        votes: dict[int, dict[str, bytes]] = {}
        for sent in [self.find(key) for uploads, _ in self.lists for key in uploads]:
            for version, model in sent.models:
                said = votes.setdefault(version, {})
                said.setdefault(sent.name, model)
                if list(said.values()).count(model) > self.c:
                    settled.setdefault(version, model)
        return settled

    def lost(self, sent: Sent) -> bool:
        settled = self.models()
        return sent.base < self.version - self.S or any(
            settled.get(version, model) != model for version, model in sent.models
        )

    def contradicts(self, sent: Sent) -> bool:
        """Whether an unreleased upload of the same number says something else."""
        return any(
            (other.name, other.number) == (sent.name, sent.number)
            and other.key != sent.key
            for other in self.waiting()
        )

    def used(self, name: str) -> int:
        """Return the newest number that a participant has used."""
        numbers = [s.number for s in self.log + self.withdrawn if s.name == name]
        return max(numbers, default=-1)

    def refuse(self, sent: Sent) -> None:
        """Use up the number of an upload that is refused."""
        if sent.number > self.used(sent.name):
            self.withdrawn.append(sent)

    def voided(self, sent: Sent) -> list[Sent]:
        """Return what waits and an upload voids."""
        return [
            other
            for other in self.waiting()
            if other.name == sent.name and other.number in sent.voids
        ]

    def spent(self, sent: Sent) -> bool:
        released = [self.find(key) for uploads, _ in self.lists for key in uploads]
        return any(
            (other.name == sent.name and other.number in sent.voids)
            for other in released
            if other.key not in self.forgotten
        )

    def strike(self, sent: Sent) -> None:
        for other in self.voided(sent):
            self.withdraw(other.key)

    def enter(self, sent: Sent) -> str | None:
        """Log an upload; return the name of the error where a rule forbids it."""
        if sent.key in self.remembered():
            return None
        freed = [other for other in self.voided(sent) if other.key in self.accepted]
        waiting = [other for other in self.waiting() if other.name == sent.name]
        if any(
            (s.name, s.number) == (sent.name, sent.number)
            for s in self.log
            if s.key not in self.forgotten
        ):
            return "EquivocationError"
        voids = sent.voids
        if (
            sorted({*voids, sent.number}) != [*voids, sent.number]
            or len(voids) > self.S
        ):
            return "MessageError"
        if self.spent(sent):
            return "SpentUpdateError"
        if not 0 <= sent.base <= self.version or self.lost(sent):
            return "StaleUploadError"
        if sent.number <= self.used(sent.name):
            return "UsedNumberError"
        if len(waiting) - len(freed) >= self.Q:
            return "BackPressure"
        if sent.foreign:
            return "StaleUploadError"
        self.log.append(sent)
        return None

    def accept(self, key: bytes) -> str | None:
        if key not in self.remembered():
            return "ReleaseError"
        if key not in self.accepted:
            self.strike(self.find(key))
        self.accepted.add(key)
        return None

    def withdraw(self, key: bytes) -> None:
        sent = self.find(key)
        self.log.remove(sent)
        self.accepted.discard(key)
        self.withdrawn.append(sent)

    def proposal(self) -> tuple[list[bytes], list[bytes]] | None:
        """Return what an honest DSP releases and expires next."""
        pending = [s for s in self.waiting() if s.key not in self.accepted]
        voided = [other for sent in pending for other in self.voided(sent)]
        ready = [
            sent
            for sent in self.waiting()
            if sent.key in self.accepted and sent not in voided
        ]
        fresh = [sent for sent in ready if not self.lost(sent)]
        while (version := min(disputed(fresh), default=None)) is not None:
            votes: dict[bytes, set[str]] = {}
            for sent in fresh:
                if version in dict(sent.models):
                    model = dict(sent.models)[version]
                    votes.setdefault(model, set()).add(sent.name)
            best = max(votes, key=lambda model: len(votes[model]))
            fresh = [s for s in fresh if dict(s.models).get(version, best) == best]
        listed = [
            sent
            for place, sent in enumerate(fresh)
            if sum(other.name == sent.name for other in fresh[:place]) < self.m
        ][: self.K]
        if len({sent.name for sent in listed}) < self.t:
            return None
        return [s.key for s in listed], [s.key for s in ready if self.lost(s)]

    def release(self, version: int, uploads: list[bytes], expired: list[bytes]) -> bool:
        """Append a list if every rule allows it."""
        sents = [self.find(key) for key in uploads]
        allowed = (
            version == self.version + 1
            and len({*uploads, *expired}) == len(uploads) + len(expired)
            and {*uploads, *expired} <= self.accepted - self.gone()
            and len(uploads) <= self.K
            and len({sent.name for sent in sents}) >= self.t
            and max(Counter(sent.name for sent in sents).values()) <= self.m
            and not any(self.lost(sent) for sent in sents)
            and all(self.lost(self.find(key)) for key in expired)
            and not disputed(sents)
        )
        if allowed:
            self.lists.append((list(uploads), list(expired)))
            self.forget()
        return allowed

    def remembered(self) -> list[bytes]:
        return [sent.key for sent in self.log if sent.key not in self.forgotten]

    def forget(self) -> None:
        """Forget, S releases later, what its owner has opened or has Q newer of."""
        consumed = [
            (version, key)
            for version, pair in enumerate(self.lists, start=1)
            for key in sorted([*pair[0], *pair[1]], key=lambda k: self.find(k).number)
        ]
        newer: Counter[str] = Counter()
        for version, key in reversed(consumed):
            name = self.find(key).name
            known = version <= self.opened.get(name, 0) or newer[name] >= self.Q
            if known and version <= self.version - self.S:
                self.forgotten.add(key)
            newer[name] += 1


def disputed(sents: list[Sent]) -> list[int]:
    """Return the versions of which some uploads name different models."""
    said = Counter(version for version, _ in {m for s in sents for m in s.models})
    return [version for version, models in said.items() if models > 1]


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
