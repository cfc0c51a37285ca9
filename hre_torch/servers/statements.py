"""What participants say they made of a release, and the verdict that follows.

Whether a release opens is seen by its recipients only. If it opens for nobody, an
uploader has spoiled it, and all may go on without it. If it opens for all but one, what
was served to that one was wrong, and going on without it would leave her with a model
of her own: the sums that she is in would then show what she uploads. So nobody gives a
release up alone. Each states, signed, that it opened or that it is rejected; the KTS
gathers statements, and gives a *verdict* once c + 2 identities reject the release while
at most c say that it opened. At most c collude, so two honest ones reject it, and none
that is honest alone. A verdict stands for ever, whatever is said later.

An upload that names the model of a version says that its sender has opened that far.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from hre_torch.protocol.ledger import Ledger
from hre_torch.protocol.messages import Statement, Verdict
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope, decode
from hre_torch.servers.journal import Journal

__all__ = ["Statements"]


class Statements:
    """Statements and verdicts on releases that somebody may still ask about.

    Args:
        task: the task.
        journal: told of each.
        statements: encoded, from an earlier server of the same task.
        verdicts: the same.

    Raises:
        MessageError: what was stored is no such message.
    """

    def __init__(
        self,
        task: Task,
        journal: Journal,
        statements: Iterable[bytes] = (),
        verdicts: Iterable[bytes] = (),
    ) -> None:
        self._journal = journal
        self._colluders = task.config.assumed_colluders
        self._said: dict[int, dict[str, Envelope[Statement]]] = {}
        self._verdicts: dict[int, Envelope[Verdict]] = {}
        for data in statements:
            statement = decode(data, Statement, cfg=task.cfg, max_bytes=0)
            self._keep(statement)
        for data in verdicts:
            verdict = decode(data, Verdict, cfg=task.cfg, max_bytes=0)
            self._verdicts[verdict.header.version] = verdict

    def add(self, statement: Envelope[Statement]) -> None:
        """Take what somebody states; that a release opened is never taken back.

        Args:
            statement: its signature checked, and that it is about a release there is.
        """
        header = statement.header
        known = self._said.get(header.version, {}).get(header.sender)
        if known is None or (header.opened and not known.header.opened):
            self._keep(statement)
            self._journal.stated(header.version, statement.encode())

    def rejected(self, version: int) -> set[str]:
        """Return who states that a release does not open."""
        said = self._said.get(version, {}).values()
        return {each.header.sender for each in said if not each.header.opened}

    def opened(self, version: int) -> set[str]:
        """Return who states that it did."""
        return set(self.models(version))

    def versions(self) -> list[int]:
        """Return of which releases anything was stated, newest first."""
        return sorted(self._said, reverse=True)

    def models(self, version: int) -> dict[str, bytes]:
        """Return the digest of the weights that each who opened a release states."""
        said = self._said.get(version, {})
        return {
            name: each.header.state_digest
            for name, each in said.items()
            if each.header.opened
        }

    def settled(self, ledger: Ledger) -> tuple[int, bytes]:
        """Return the newest version of which c + 1 identities name one model.

        Args:
            ledger: what released lists have named, which counts as well.

        Returns:
            The version, and the digest that they name.
        """
        version, digest = ledger.settled()
        for later in self.versions():
            if later <= version:
                break
            named = self.models(later) | ledger.models_of(later)
            for common, count in Counter(named.values()).most_common(1):
                if count > self._colluders:
                    return later, common
        return version, digest

    def verdict(self, version: int) -> Envelope[Verdict] | None:
        """Return the verdict on a release, if there is one."""
        return self._verdicts.get(version)

    def verdicts(self) -> tuple[Envelope[Verdict], ...]:
        """Return all verdicts that are kept, oldest release first."""
        return tuple(self._verdicts[version] for version in sorted(self._verdicts))

    def judge(self, verdict: Envelope[Verdict]) -> None:
        """Keep a verdict that is final."""
        version = verdict.header.version
        self._verdicts[version] = verdict
        self._journal.judged(version, verdict.encode())

    def forget(self, kept: Collection[int]) -> None:
        """Drop what was said of all releases but those about which somebody may ask."""
        for version in (self._said.keys() | self._verdicts.keys()) - set(kept):
            self._said.pop(version, None)
            self._verdicts.pop(version, None)
            self._journal.closed(version)

    def encoded(self) -> tuple[bytes, ...]:
        """Return the statements as bytes, oldest release first, by name."""
        return tuple(
            said[name].encode()
            for _, said in sorted(self._said.items())
            for name in sorted(said)
        )

    def _keep(self, statement: Envelope[Statement]) -> None:
        header = statement.header
        self._said.setdefault(header.version, {})[header.sender] = statement
