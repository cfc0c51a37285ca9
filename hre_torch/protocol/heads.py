"""What a server signs of its ledger as a whole.

LedgerHead   a server -> anybody       where its ledger stands
"""

from __future__ import annotations

import msgspec

from hre_torch.protocol.envelope import Digest, Header, Name, Number

__all__ = ["Count", "LedgerHead"]


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
    """

    version: Number
    chain: Digest
    counts: tuple[Count, ...]
    settled_version: Number
    settled_digest: Digest
