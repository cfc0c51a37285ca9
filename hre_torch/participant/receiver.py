"""Releases from their download to the weights: opened, disputed, applied, told.

An own update is subtracted exactly when a release that contains it is added, or when an
expiry drops it. A release whose content is spoiled is applied as nothing, in suites
where nobody decides that alone once enough others say so too.

About a release that does not open, a session asks once more, since a key transform may
have gone wrong. If an independent one fails alike, it states so, signed, and learns
from the KTS what others state. When everybody gives a release up is told in
`servers/statements.py`. Until then the session applies nothing of it and waits. Where
more than c identities have opened it, an uploader is not to blame.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from hre_torch.errors import (
    AggregatorError,
    DisputedReleaseError,
    EquivocationWarning,
    ReleaseRejectedError,
    SpoiledReleaseError,
    SpoiledReleaseWarning,
)
from hre_torch.observer import Observer
from hre_torch.participant.carriers import Carrier
from hre_torch.participant.participant import Held, LearningParticipant, Opened
from hre_torch.participant.pending import Attempt, PendingUpdates
from hre_torch.participant.released import ReleasedWeights
from hre_torch.participant.sender import Sender
from hre_torch.participant.session_state import Statistics
from hre_torch.protocol.answers import read_verdict
from hre_torch.protocol.evidence import check_evidence, refuted
from hre_torch.protocol.messages import Listed, Verdict
from hre_torch.protocol.task import Task

__all__ = ["Disputes", "Receiver"]

_LEAST_FAILURES: Final = 2
"""Independent key transforms that fail before anything is stated."""


class Receiver:
    """Fetches, opens and applies what a session has not seen.

    Args:
        task: the task.
        participant: who opens.
        carrier: how downloads travel.
        sender: told of what is settled by a release.
        observe: told of the phases `fetch` and `open`.
        model: the released weights, to which releases are added.
        pending: own updates, from which releases and expiries take theirs.
        statistics: of the session; counts releases and bytes.
        evidence: encoded evidence against the DSP, from an earlier session.

    Attributes:
        evidence: encoded evidence against the DSP.
    """

    def __init__(
        self,
        task: Task,
        participant: LearningParticipant,
        carrier: Carrier,
        sender: Sender,
        observe: Observer,
        model: ReleasedWeights,
        pending: PendingUpdates,
        statistics: Statistics,
        evidence: Iterable[bytes] = (),
    ) -> None:
        self._task = task
        self._participant = participant
        self._carrier = carrier
        self._sender = sender
        self._observe = observe
        self._model = model
        self._pending = pending
        self._statistics = statistics
        self._disputes = Disputes(participant, carrier.declare)
        self._charges: list[str] = []
        self.evidence = list(evidence)

    def receive(self, *, wait: bool) -> list[Opened]:
        """Open and apply every release that is new, and return them.

        Args:
            wait: for the network, where downloads are fetched ahead.

        Raises:
            TransformError, DisputedReleaseError, AggregatorError: see `Session.pull`;
                what came before is applied.
        """
        opened: list[Opened] = []
        try:
            self._receive(opened, merge=True, wait=wait)
        except ReleaseRejectedError:
            # One of several that were opened as one sum.
            self._receive(opened, merge=False, wait=wait)
        return opened

    def attest(self) -> Verdict:
        """See `Session.attest`."""
        return self._disputes.state(self._model.digest)

    def apply(self, opened: Opened) -> None:
        """Add a release to the weights, and take what is in it from what is pending."""
        statistics, name = self._statistics, self._participant.name
        rejected = opened.values is None
        if rejected:
            names = {item.name for item in opened.uploads}
            if statistics.rejected:
                names &= set(statistics.suspects)
            statistics.rejected += 1
            statistics.suspects = tuple(sorted(names))
        releases = opened.last - opened.first + 1
        statistics.releases += releases
        self._model.add(opened.values, releases)
        for item in opened.uploads:
            if item.name == name:
                # What is not pending here is no loss: it has arrived with the sum.
                dropped, attempt = self._pending.consume(item.sequence)
                statistics.spent += dropped and rejected
                if attempt is not None:
                    self._accuse(attempt, item, opened)
        for item in opened.expired:
            if item.name == name:
                statistics.expired += self._pending.expire(item.sequence)
        self._sender.drop_consumed()
        self._sender.learn(opened.newest)

    def tell(self, opened: Iterable[Opened]) -> list[Opened]:
        """Warn of what was given up and of a DSP that broke its word.

        Returns:
            The releases that were given up.
        """
        given_up = [each for each in opened if each.values is None]
        for rejected in given_up:
            names = ", ".join(sorted({item.name for item in rejected.uploads}))
            suspects = ", ".join(self._statistics.suspects) or "nobody"
            warnings.warn(
                f"Release {rejected.last} was spoiled and is given up, with every "
                f"update in it; its uploads are of {names}. Spoiled so far: "
                f"{self._statistics.rejected}; {suspects} had uploads in every one.",
                SpoiledReleaseWarning,
                stacklevel=4,
            )
        charges, self._charges = self._charges, []
        for charge in charges:
            warnings.warn(
                f"The DSP has broken its word: {charge}. It counts once. Show others "
                "`session.evidence`, and use another DSP if it recurs.",
                EquivocationWarning,
                stacklevel=4,
            )
        return given_up

    def _receive(self, opened: list[Opened], *, merge: bool, wait: bool) -> None:
        downloads = self._fetch(merge=merge, wait=wait)
        while True:
            with self._observe("fetch"):
                data = next(downloads, None)
            if data is None:
                return
            self._statistics.bytes_down += len(data)
            try:
                with self._observe("open"):
                    found: Opened | None = self._participant.open(data)
            except SpoiledReleaseError:
                if self._disputes.may_ask_again():
                    downloads = self._fetch(merge=False, wait=wait)
                    continue
                found = self._disputes.give_up()
            if found is None:
                return
            opened.append(found)
            self.apply(found)
            if found.values is not None and self._disputes.was_stated(found.last):
                # That it opened after all is said as well; what is uploaded upon it
                # says so again.
                with contextlib.suppress(AggregatorError):
                    self.attest()

    def _fetch(self, *, merge: bool, wait: bool) -> Iterator[bytes]:
        return self._carrier.fetch(
            lambda: self._participant.version, merge=merge, wait=wait
        )

    def _accuse(self, attempt: Attempt, item: Listed, opened: Opened) -> None:
        """Keep evidence that a list names what the DSP has refused for good."""
        evidence = refuted(attempt.refusal, item, opened.signed, self._task)
        if evidence is None:
            self._charges.append(
                f"upload {item.sequence} was refused, but a release up to "
                f"{opened.last} contains it; the refusal is worded so that it proves "
                "nothing"
            )
            return
        self._charges.append(check_evidence(evidence, self._task))
        if not self.evidence:
            self.evidence.append(evidence.encode())


class Disputes:
    """Statements of one participant, and the verdicts that follow.

    Args:
        participant: whose downloads these are.
        declare: carries an encoded statement; see `Aggregator.declare`.
    """

    def __init__(
        self, participant: LearningParticipant, declare: Callable[[bytes], bytes]
    ) -> None:
        self._participant = participant
        self._declare = declare
        self._version, self._failures = 0, 0
        self._warned = 0

    def may_ask_again(self) -> bool:
        """Count a failure to open; whether to ask for the release once more at once."""
        held = self._participant.held
        version = held.release.version if held is not None else 0
        same = version == self._version
        self._version, self._failures = version, self._failures + 1 if same else 1
        return self._failures < _LEAST_FAILURES

    def was_stated(self, version: int) -> bool:
        """Whether this session has stated that a release does not open."""
        return version == self._version and self._failures >= _LEAST_FAILURES

    def state(self, digest: bytes = b"") -> Verdict:
        """State what became of a release, see `LearningParticipant.declare`.

        Raises:
            AggregatorError: no answer came; state it again.
            HREError: a server refuses the statement.
        """
        statement = self._participant.declare(digest)
        data = statement.encode()
        return read_verdict(
            self._declare(data), statement, data, self._participant.task
        )

    def give_up(self) -> Opened | None:
        """Give up the release that does not open, if enough others do.

        Returns:
            What that comes to; None while the release waits for others.

        Raises:
            DisputedReleaseError: so many have opened it that it will never be given up.
            AggregatorError, HREError: as `state`.
        """
        verdict = self.state()
        if verdict.final:
            return self._participant.reject(verdict)
        held = self._participant.held
        if held is None:
            return None
        colluders = self._participant.task.config.assumed_colluders
        counts = (
            f"{len(verdict.rejected)} reject it ({', '.join(verdict.rejected)}) and "
            f"{len(verdict.opened)} have opened it ({', '.join(verdict.opened)})"
        )
        if len(verdict.opened) > colluders:
            raise DisputedReleaseError(
                f"release {verdict.version} does not open for "
                f"{self._participant.name!r} ({held.reason}), whose own key transform "
                f"failed twice, but {counts}: more than c = {colluders}, so no "
                "uploader has spoiled it. What was served here is wrong, most likely "
                "by the DSP: tell the operator and the other participants. Nothing was "
                "consumed; pull again once the DSP is repaired, or join anew from a "
                "snapshot"
            )
        self._warn(held, counts, colluders)
        return None

    def _warn(self, held: Held, counts: str, colluders: int) -> None:
        if self._warned == held.release.version:
            return
        self._warned = held.release.version
        warnings.warn(
            f"Release {held.release.version} does not open for "
            f"{self._participant.name!r} ({held.reason}). It is given up once "
            f"c + 2 = {colluders + 2} identities reject it while at most {colluders} "
            f"have opened it; now {counts}. Until then this session stays at version "
            f"{held.release.version - 1} and asks again with every pull.",
            SpoiledReleaseWarning,
            stacklevel=2,
        )
