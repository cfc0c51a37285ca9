"""What the two servers tell whoever makes their state durable.

A role is a pure function of its state and knows no disk. It tells a *journal* of every
change of its state, in order, after every check that could refuse the step and before
it returns. Whoever persists it collects what one step said and makes all of it durable,
or nothing, before the step's answer leaves. The default journal forgets everything.

A refused step may change something too (a contradicting upload is kept as evidence):
what a step told its journal holds even if the step then raises an `HREError`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hre_torch.protocol.ciphers import Parts
from hre_torch.protocol.entries import Entry, NamedModels
from hre_torch.protocol.envelope import Envelope
from hre_torch.protocol.messages import Release
from hre_torch.protocol.states import StoredState

__all__ = ["Journal"]


class Journal:
    """A journal that forgets everything; subclasses keep it.

    An order in which both servers' journals are called in a quiet task:
    `entered`, `accepted` for every upload, `released` and `named` for every release,
    then `fetched` as participants open it, `forgotten` when everybody has and a later
    list has settled its model, and `outlived` S releases later.
    """

    def entered(self, entry: Entry, stored: StoredState) -> None:
        """Take note of an upload that passed every check and is pending now.

        Args:
            entry: how the ledger names it.
            stored: the upload as bytes; `StoredState` says how they check themselves.
        """

    def accepted(self, upload: bytes) -> None:
        """Take note that both servers have logged the upload with that digest.

        Losing this is harmless: `entered` was told by then, at both servers, and a DSP
        that finds an upload pending forwards it again and gets the same receipt.
        """

    def refused(self, name: str, sequence: int) -> None:
        """Take note that a sequence number is used up, though no upload came in.

        Its owner is told that this upload is refused for good, and must not see it
        released after a restart.
        """

    def withdrawn(self, upload: bytes) -> None:
        """Take note that an unreleased upload is gone.

        The other server refuses it, or a later one voids it. Its sequence number stays
        used. Its owner is told, and must not see it released after a restart.
        """

    def released(self, release: Envelope[Release], total: Parts) -> None:
        """Take note of a signed list, which consumes the uploads and expiries it names.

        Args:
            release: the KTS's signed list.
            total: this server's sum of the list's uploads, as the suite's `dump` wrote
                it.
        """

    def named(self, models: Sequence[NamedModels], dropped: Sequence[int]) -> None:
        """Take note of what a release's uploads have named, in the same step.

        Args:
            models: what is known now of the versions that changed.
            dropped: versions that no upload can name any more.
        """

    def rebuilt(self, version: int, total: Parts) -> None:
        """Take note of a sum that was computed again from its uploads."""

    def fetched(self, recipient: str, version: int) -> None:
        """Take note that a participant has opened everything up to `version`.

        Losing this is harmless: the participant says so again when it asks again.
        """

    def forgotten(self, version: int) -> None:
        """Take note that a sum can go: everybody has it, and its model is settled.

        Losing this is harmless: it follows from `fetched` and `named`.
        """

    def outlived(self, lines: Sequence[Entry]) -> None:
        """Take note of consumed uploads about which nobody will ask any more.

        Losing this is harmless: it follows from `fetched` and the releases, and the
        next release says so again of lines that are still there after a restart.

        Args:
            lines: how the ledger named them; they can go.
        """

    def stated(self, version: int, statement: bytes) -> None:
        """Take note of what a participant states about a release, encoded.

        Nobody states the same of the same release twice, but that it opened may follow
        that it was rejected.
        """

    def judged(self, version: int, verdict: bytes) -> None:
        """Take note of the encoded verdict by which a release is given up."""

    def closed(self, version: int) -> None:
        """Take note that nobody will ask any more what was stated about a release.

        Losing this is harmless: the next release says so again.
        """

    def witnessed(self, evidence: bytes) -> None:
        """Take note of encoded evidence that somebody has broken the protocol."""
