"""The learning participant: seals updates, checks and opens downloads."""

from __future__ import annotations

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
    TaskError,
    TransformError,
)
from hre_torch.protocol.ciphers import Integers
from hre_torch.protocol.combination import Combination
from hre_torch.protocol.entries import GENESIS, chain_after
from hre_torch.protocol.envelope import Envelope, decode, seal
from hre_torch.protocol.messages import Download, Listed, Release, Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

__all__ = ["LearningParticipant", "Opened", "ParticipantState"]


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
    """

    first: int
    last: int
    newest: int
    values: Integers | None
    uploads: tuple[Listed, ...]
    expired: tuple[Listed, ...]
    weight: int = 0

    @property
    def count(self) -> int:
        """How many uploads the sum holds."""
        return len(self.uploads)


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
        self._merges = suite.merges_in(config.combine, config.n_buffers)
        self._max_bytes = suite.max_message_bytes(task)
        self._state = state or ParticipantState()

    @property
    def version(self) -> int:
        """Number of releases that this participant has opened."""
        return self._state.version

    def state(self) -> ParticipantState:
        """Return a copy of everything that a restart needs, keys aside."""
        return msgspec.structs.replace(self._state)

    def rebase(self, version: int, chain: bytes) -> None:
        """Go on after a release that this participant has not opened itself."""
        self._state.version = version
        self._state.chain = chain

    def seal(
        self, values: Integers, base_version: int, digests: bytes
    ) -> Envelope[Upload]:
        """Return a signed, encrypted upload.

        Args:
            values: quantised update, int32 or int16, shape `(n_sealed,)`,
                |q| <= 2^(b-1) - 1; see `Session.push`.
            base_version: release on which the update was computed.
            digests: what there is to say of the released weights at that version and
                at those before it; see `ReleasedWeights`.

        Raises:
            TaskError: wrong shape or dtype, or no weight where there must be one.
            SlotOverflowError: a value exceeds its bits.
        """
        self._check_values(values)
        header = Upload(
            cfg=self.task.cfg,
            sender=self.name,
            sequence=self._state.sequence,
            base_version=base_version,
            state_digests=digests,
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
            WrongTaskError: the download is of another task.
        """
        try:
            download = decode(
                data, Download, cfg=self.task.cfg, max_bytes=self._max_bytes
            )
        except MessageError as error:
            raise TransformError(f"{error}; nothing was consumed, ask again") from error
        releases = self._checked_releases(download)
        uploads = tuple(item for release in releases for item in release.uploads)
        expired = tuple(item for release in releases for item in release.expired)
        merged = len(releases) > 1
        values, weight = self._decrypt(download, len(uploads), merged=merged)
        self._state.version = releases[-1].version
        self._state.chain = releases[-1].chain
        return Opened(
            first=releases[0].version,
            last=releases[-1].version,
            newest=download.header.version,
            values=values,
            uploads=uploads,
            expired=expired,
            weight=weight,
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
        identities = {item.name for item in release.uploads}
        config = self.task.config
        if len(identities) < config.min_contributions:
            raise TransformError(
                f"release {release.version} sums uploads of {len(identities)} "
                f"identities, the task promises at least {config.min_contributions}"
            )
        return release

    def _decrypt(
        self, download: Envelope[Download], count: int, *, merged: bool
    ) -> tuple[Integers | None, int]:
        try:
            total = self._cipher.decrypt(download.parts, count)
            return self._combination.change(total, count)
        except (ChecksumError, SlotOverflowError) as error:
            if merged:
                raise ReleaseRejectedError(
                    f"the merged releases do not decode ({error}); ask for them singly"
                ) from error
            return None, 0
        except (CryptoError, MessageError) as error:
            raise TransformError(
                f"the download does not open ({error}); nothing was consumed, ask again"
            ) from error
