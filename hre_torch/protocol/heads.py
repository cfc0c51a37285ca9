"""What the two servers tell each other of their ledgers: nobody works on an old one.

A server whose folder was restored from a copy cannot tell from what it holds. Others
can: the other server signs its own head, and lists that the KTS has signed, and every
upload names the newest release that its sender knows. A *horizon* keeps what others
have signed and this server does not hold. While there is anything, the server is
behind. The servers compare everything at each start and after each outage; in between,
every deposit and every receipt names the newest release of its sender.

LedgerHead   a server -> anybody       where its ledger stands
Records      a server -> the other     the same, and what shows it
"""

from __future__ import annotations

from typing import Final

import msgspec

from hre_torch.protocol.ledger import Ledger
from hre_torch.protocol.wire import Digest, Header, MaybeDigest, Name, Number

__all__ = ["Count", "Horizon", "LedgerHead", "Records"]

_OLD: Final = "restored from an older copy"


class Count(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Of one participant: the lowest number it has not used, and how many wait."""

    name: Name
    next_sequence: Number
    waiting: Number


class LedgerHead(Header, frozen=True, kw_only=True, tag="ledger_head"):
    """Where a server's ledger stands.

    Attributes:
        version: number of releases so far.
        chain: hash chain over them.
        counts: of every participant, in the order of the roster.
        settled_version: newest version whose model is settled.
        settled_digest: what headers say of that model.
        settled_chain: hash chain at that version; empty if it is more than S releases
            old.
        request: digest of the message that this answers, so that an earlier head is
            told from a new one; empty if none was asked.
    """

    version: Number
    chain: Digest
    counts: tuple[Count, ...]
    settled_version: Number
    settled_digest: Digest
    settled_chain: MaybeDigest = b""
    request: MaybeDigest = b""


class Records(Header, frozen=True, kw_only=True, tag="records"):
    """What a server has of the task's history, for the other one.

    Attributes:
        version: number of releases so far.
        chain: hash chain over them.
        releases: encoded `Release` envelopes that the other one seems to lack, in
            order; not always all.
        accepted: uploads that both servers have logged and no list names yet.
    """

    version: Number
    chain: Digest
    releases: tuple[bytes, ...]
    accepted: tuple[Digest, ...]


class Horizon:
    """What others have signed that a server's own ledger does not hold.

    Args:
        ledger: the server's own.
        other: what to call the other server.
        enough: how many participants have to name the same release: more than the task
            assumes to lie.
    """

    def __init__(self, ledger: Ledger, other: str, enough: int) -> None:
        self._ledger = ledger
        self._other = other
        self._enough = enough
        self._claims: dict[str, tuple[int, bytes]] = {}
        self._signed: tuple[int, bytes] | None = None
        self._missing: frozenset[bytes] = frozenset()

    def claim(self, name: str, version: int, chain: bytes) -> None:
        """Note which release a participant names as the newest that it knows."""
        self._claims[name] = version, chain

    def compare(self, version: int, chain: bytes) -> None:
        """Note the newest release that the other server has signed for."""
        self._signed = version, chain

    def notice(self, version: int, chain: bytes) -> None:
        """Note the same in passing, if it is lacking here.

        A message that was long under way takes nothing back.
        """
        if chain and self._lacks(version, chain):
            self._signed = version, chain

    def expect(self, uploads: frozenset[bytes]) -> None:
        """Note which uploads the other server has logged and this one lacks."""
        self._missing = uploads

    @property
    def missing(self) -> frozenset[bytes]:
        """Uploads that both servers once had logged, and that are not here now."""
        found = {digest for digest in self._missing if self._ledger.find(digest)}
        self._missing -= found
        return self._missing

    @property
    def lag(self) -> int:
        """How many releases others have that this server lacks.

        At least one where theirs are other ones than its own; 0 where it lacks none.
        """
        seen = self._beyond()
        return 0 if seen is None else max(1, seen[0] - self._ledger.version)

    def reason(self) -> str:
        """Return why this server is behind, in words; empty if it is not."""
        seen = self._beyond()
        if seen is not None:
            version, who = seen
            lag = version - self._ledger.version
            if lag > 0:
                return f"{_OLD}: {_count(lag, 'release')} behind {who}"
            return f"{_OLD}: release {version} here is not that in {who}"
        if self.missing:
            lacking = _count(len(self.missing), "upload")
            return f"{_OLD}: {lacking} behind what {self._other} has logged"
        return ""

    def _beyond(self) -> tuple[int, str] | None:
        """Return the newest release that counts and is not here, and who says so."""
        found = []
        if self._signed is not None and self._lacks(*self._signed):
            found.append((self._signed[0], f"what {self._other} has signed"))
        supporters: dict[tuple[int, bytes], list[str]] = {}
        # A copy, since a service looks on from another thread.
        for name, claim in list(self._claims.items()):
            if self._lacks(*claim):
                supporters.setdefault(claim, []).append(name)
        for (version, _), names in supporters.items():
            if len(names) >= self._enough:
                found.append((version, f"what {len(names)} participants have opened"))
        return max(found, default=None)

    def _lacks(self, version: int, chain: bytes) -> bool:
        known = self._ledger.chain_at(version)
        if known is None:
            return version > self._ledger.version
        return known != chain


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
