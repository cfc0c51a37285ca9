"""What a session does about a release that does not open for it.

It asks once more, since a key transform may have gone wrong. If an independent one
fails alike, it states so, signed, and learns from the KTS what others state. When
everybody gives a release up is told in `statements`. Until then the session applies
nothing of it and waits. Where more than c identities have opened it, an uploader is not
to blame.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Final

from hre_torch.errors import DisputedReleaseError, SpoiledReleaseWarning
from hre_torch.participant.participant import Held, LearningParticipant, Opened
from hre_torch.protocol.answers import read_verdict
from hre_torch.protocol.messages import Verdict

__all__ = ["Disputes"]

_LEAST_FAILURES: Final = 2
"""Independent key transforms that fail before anything is stated."""


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
