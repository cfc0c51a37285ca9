"""The learning participant: seals updates, checks and opens downloads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import msgspec
import numpy as np

from hre_torch.errors import (
    ChecksumError,
    CryptoError,
    MessageError,
    ReleaseRejectedError,
    SignatureError,
    SlotOverflowError,
    SpoiledReleaseError,
    TaskError,
    TransformError,
)
from hre_torch.protocol.combination import Combination
from hre_torch.protocol.entries import GENESIS, chain_after
from hre_torch.protocol.messages import (
    Download,
    Listed,
    Release,
    Statement,
    Upload,
    Verdict,
)
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import Integers
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import require_norm
from hre_torch.protocol.wire import Envelope, decode, seal
from hre_torch.protocol.workers import Workers

__all__ = ["Held", "LearningParticipant", "Opened", "ParticipantState"]


@dataclass(frozen=True, slots=True)
class Opened:
    """What one download contained.

    Attributes:
        first: first release in it.
        last: last release in it.
        newest: newest release that the DSP has.
        values: what the uploads add to the released weights, int64 or int32 at scale
            2^f, shape `(n_values,)`: their sum, or weighted average; None if the
            release was rejected because its content is not such a sum.
        uploads: the uploads it sums.
        expired: uploads that were dropped because they were too old.
        weight: sum of the uploads' weights; 0 where they have none.
        signed: the KTS's signed lists, encoded.
    """

    first: int
    last: int
    newest: int
    values: Integers | None
    uploads: tuple[Listed, ...]
    expired: tuple[Listed, ...]
    weight: int = 0
    signed: tuple[bytes, ...] = ()

    @property
    def count(self) -> int:
        """How many uploads the sum holds."""
        return len(self.uploads)


@dataclass(frozen=True, slots=True)
class Held:
    """A release that did not open, and that this participant may not give up alone.

    Attributes:
        release: its signed list, checked.
        download: with what it came.
        reason: what is wrong with its content.
    """

    release: Release
    download: Download
    reason: str


class ParticipantState(msgspec.Struct):
    """Everything a participant needs to go on after a restart, keys aside."""

    sequence: int = 0
    version: int = 0
    chain: bytes = GENESIS


class LearningParticipant:
    """One participant's end of the protocol, a pure function of its state.

    Args:
        task: the task.
        secret: this participant's keys.
        workers: where block-wise arithmetic runs.
        state: where an earlier run of the same participant stopped.

    Attributes:
        held: the next release, if it did not open when last tried.

    Raises:
        TaskError: the suite cannot serve the task, or the keys are not those of a
            card of its roster.
    """

    def __init__(
        self,
        task: Task,
        secret: Secret,
        workers: Workers,
        state: ParticipantState | None = None,
    ) -> None:
        task.roster.require_keys(secret)
        self.task = task
        self.name = secret.name
        self._secret = secret
        suite = SUITES.get(task.config.suite)
        suite.check(task)
        self._cipher = suite.participant(task, secret, workers)
        self._combination = Combination(task.config)
        config = task.config
        self._merges = suite.merges_in(config.combine, config.n_buffers, config.clip)
        self._max_bytes = suite.max_message_bytes(task)
        self._judged = suite.judged
        self._state = state or ParticipantState()
        self.held: Held | None = None

    @property
    def version(self) -> int:
        """Number of releases that this participant has opened."""
        return self._state.version

    def state(self) -> ParticipantState:
        """Return a copy of everything that a restart needs, keys aside."""
        return msgspec.structs.replace(self._state)

    def declare(self, digest: bytes = b"") -> Envelope[Statement]:
        """Return a signed statement about a release.

        Args:
            digest: what headers say of the weights with the newest release that was
                opened here; without it, the statement is that the next one does not
                open.

        Raises:
            TransformError: that was not tried.
        """
        version, chain = self._state.version, self._state.chain
        if not digest:
            if self.held is None:
                raise TransformError(
                    f"no release after {version} has failed to open here; pull first"
                )
            version, chain = self.held.release.version, self.held.release.chain
        statement = Statement(
            cfg=self.task.cfg,
            sender=self.name,
            version=version,
            chain=chain,
            state_digest=digest,
        )
        return seal(statement, self._secret.signing)

    def reject(self, verdict: Verdict) -> Opened:
        """Give up the release that does not open, as everybody does.

        Args:
            verdict: the KTS's, its signature checked.

        Raises:
            TransformError: it is not the verdict by which that release is given up.
        """
        if self.held is None:
            raise TransformError("no release waits for a verdict here; pull first")
        release, colluders = self.held.release, self.task.config.assumed_colluders
        known = set(self.task.roster.names)
        if (
            not verdict.final
            or (verdict.version, verdict.chain) != (release.version, release.chain)
            or len(known.intersection(verdict.rejected)) < colluders + 2
            or len(set(verdict.opened)) > colluders
        ):
            raise TransformError(
                f"the verdict on release {verdict.version} names "
                f"{len(set(verdict.rejected))} who reject it and "
                f"{len(set(verdict.opened))} who opened it; release {release.version} "
                f"is given up once {colluders + 2} reject it and at most {colluders} "
                "opened it. Nothing was consumed, ask again"
            )
        return self._consumed([release], self.held.download, None, 0)

    def rebase(self, version: int, chain: bytes) -> None:
        """Go on after a release that this participant has not opened itself."""
        self._state.version = version
        self._state.chain = chain
        self.held = None

    def seal(
        self,
        values: Integers,
        base_version: int,
        digests: bytes,
        voids: tuple[int, ...] = (),
    ) -> Envelope[Upload]:
        """Return a signed, encrypted upload.

        Args:
            values: quantised update, int32 or int16, shape `(n_sealed,)`,
                |q| <= 2^(b-1) - 1; see `Session.push`.
            base_version: release on which the update was computed, the newest one that
                was opened here.
            digests: what there is to say of the released weights at that version and
                at those before it; see `ReleasedWeights`.
            voids: numbers under which the same values were sealed before, rising.

        Raises:
            TaskError: wrong shape or dtype, or no weight where there must be one.
            SlotOverflowError: a value exceeds its bits, or all together the clip:
                everybody would reject a release with it.
        """
        self._check_values(values)
        header = Upload(
            cfg=self.task.cfg,
            sender=self.name,
            sequence=self._state.sequence,
            base_version=base_version,
            state_digests=digests,
            voids=voids,
            chain=self._state.chain,
        )
        body = self._cipher.encrypt(values)
        envelope = seal(header, self._secret.signing, body.parts, prove=body.prove)
        self._state.sequence += 1
        return envelope

    def open(self, data: bytes) -> Opened:
        """Check and open an encoded download.

        Args:
            data: an encoded `Download` envelope.

        Raises:
            TransformError: a signature, list, chain or key transform is wrong; nothing
                was consumed, ask again.
            ReleaseRejectedError: several releases were merged and their sum does not
                decode; ask for them singly.
            SpoiledReleaseError: the content is no sum of the listed uploads, in a suite
                in which nobody decides that alone; the release is `held`.
            WrongTaskError: the download is of another task.
        """
        try:
            download = decode(
                data, Download, cfg=self.task.cfg, max_bytes=self._max_bytes
            )
        except MessageError as error:
            raise TransformError(f"{error}; nothing was consumed, ask again") from error
        releases = self._checked_releases(download)
        values, weight = self._decrypt(download, releases)
        return self._consumed(releases, download.header, values, weight)

    def _consumed(
        self,
        releases: list[Release],
        download: Download,
        values: Integers | None,
        weight: int,
    ) -> Opened:
        self._state.version = releases[-1].version
        self._state.chain = releases[-1].chain
        self.held = None
        return Opened(
            first=releases[0].version,
            last=releases[-1].version,
            newest=download.version,
            values=values,
            uploads=tuple(item for each in releases for item in each.uploads),
            expired=tuple(item for each in releases for item in each.expired),
            weight=weight,
            signed=download.releases,
        )

    def _check_values(self, values: Integers) -> None:
        expected = (self.task.config.n_sealed,)
        if values.shape != expected or values.dtype not in (np.int32, np.int16):
            raise TaskError(
                f"an update has shape {values.shape} and dtype {values.dtype}, this "
                f"task takes shape {expected} and dtype int32 or int16"
            )
        weight = self._combination.weight_in(values)
        limit = self._combination.largest(weight)
        require_norm(self.task.config, values, 1, weight)
        values = values[: self.task.config.n_values]
        low, high = int(values.min()), int(values.max())
        if not -limit <= low <= high <= limit:
            of_weight = f" and weight {weight}" if weight else ""
            raise SlotOverflowError(
                f"quantised values lie between {low} and {high}, but "
                f"{self.task.config.value_bits} bits{of_weight} hold only -{limit} to "
                f"{limit}; quantise with the task's fixed point, and clip"
            )

    def _checked_releases(self, download: Envelope[Download]) -> list[Release]:
        roster = self.task.roster
        if download.header.recipient != self.name:
            raise TransformError(
                f"the download is for {download.header.recipient!r}, this is "
                f"{self.name!r}"
            )
        try:
            download.verify(roster.data_service.signing_key)
            releases = [self._checked_release(data) for data in self._listed(download)]
        except (SignatureError, MessageError) as error:
            raise TransformError(f"{error}; nothing was consumed, ask again") from error
        version, chain = self._state.version, self._state.chain
        for release in releases:
            expected = chain_after(
                chain,
                release.version,
                release.uploads,
                release.expired,
                release.commitment,
            )
            if release.version != version + 1 or release.previous != chain:
                raise TransformError(
                    f"release {release.version} does not follow release {version} as "
                    "this participant has it; ask again from there"
                )
            if release.chain != expected:
                raise TransformError(
                    f"the hash chain of release {release.version} does not recompute"
                )
            version, chain = release.version, release.chain
        if len(releases) > 1 and not self._merges:
            raise TransformError(
                f"{len(releases)} releases came as one sum, but in this task each is "
                "opened alone"
            )
        if releases[-1].commitment != self._cipher.commitment(download.parts):
            raise TransformError(
                f"release {version} commits to another sum than the one downloaded: "
                "somebody shows different sums to different participants"
            )
        return releases

    def _listed(self, download: Envelope[Download]) -> tuple[bytes, ...]:
        if not download.header.releases:
            raise MessageError("a download names at least one release")
        return download.header.releases

    def _checked_release(self, data: bytes) -> Release:
        envelope = decode(data, Release, cfg=self.task.cfg, max_bytes=0)
        envelope.verify(self.task.roster.key_transform.signing_key)
        release = envelope.header
        identities = Counter(item.name for item in release.uploads)
        config = self.task.config
        t, m = config.min_contributions, config.max_per_identity
        if len(identities) < t or max(identities.values()) > m:
            raise TransformError(
                f"release {release.version} sums {len(release.uploads)} uploads of "
                f"{len(identities)} identities, the task promises at least {t} "
                f"identities with at most {m} of each"
            )
        return release

    def _decrypt(
        self, download: Envelope[Download], releases: list[Release]
    ) -> tuple[Integers | None, int]:
        count = sum(len(release.uploads) for release in releases)
        try:
            total = self._cipher.decrypt(download.parts, count)
            return self._combination.change(total, count)
        except (ChecksumError, SlotOverflowError) as error:
            if len(releases) > 1:
                raise ReleaseRejectedError(
                    f"the merged releases do not decode ({error}); ask for them singly"
                ) from error
            if not self._judged:
                return None, 0
            self.held = Held(releases[0], download.header, str(error))
            raise SpoiledReleaseError(
                f"release {releases[0].version} does not open ({error}); it is given "
                "up only if enough others say so too. Nothing was consumed, ask again"
            ) from error
        except (CryptoError, MessageError) as error:
            raise TransformError(
                f"the download does not open ({error}); nothing was consumed, ask again"
            ) from error
