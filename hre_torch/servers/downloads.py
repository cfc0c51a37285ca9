"""How the DSP turns kept sums into downloads, with the KTS's half of the transform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

from hre_torch.errors import SnapshotNeededError, TransformError
from hre_torch.protocol.messages import Download, TransformReply, TransformRequest
from hre_torch.protocol.roster import KeyCard, Secret
from hre_torch.protocol.suite import DataServiceCipher
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import MAX_HEADER_BYTES, Envelope, seal
from hre_torch.protocol.workers import Workers
from hre_torch.servers.journal import DataServiceState
from hre_torch.servers.server import Server, ServerOptions

__all__ = ["DownloadServer"]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A key transform that waits for the KTS: its releases, own part, signed lists."""

    first: int
    last: int
    own: Any
    signed: tuple[bytes, ...]


class DownloadServer(Server[DataServiceCipher[Any]]):
    """The downloading half of the DSP; `DataServiceProvider` is the whole of it.

    Args:
        task: the task.
        secret: the DSP's keys.
        workers: where block-wise arithmetic runs.
        state: where an earlier DSP of the same task stopped.
        options: see `ServerOptions`.
    """

    def __init__(
        self,
        task: Task,
        secret: Secret,
        workers: Workers,
        *,
        state: DataServiceState | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        super().__init__(task, secret, workers, state=state, **options)
        self._transforms: dict[str, _Begun] = {}

    def _half_of_suite(self, workers: Workers) -> DataServiceCipher[Any]:
        return self._suite.data_service(self.task, self._secret, workers)

    @property
    def _other(self) -> KeyCard:
        return self.task.roster.key_transform

    def next_range(
        self,
        recipient: str,
        since: int,
        *,
        merge: bool = True,
        opened: int | None = None,
    ) -> tuple[int, int] | None:
        """Return the releases that the recipient's next download holds, or None.

        Consecutive releases are merged up to a total count of K where the suite
        allows it. What every participant has fetched is forgotten.

        Args:
            recipient: who asks.
            since: last release that the recipient has opened.
            merge: False to get releases singly.
            opened: last release that the recipient will never ask for again, where
                that is older than `since`.

        Raises:
            SnapshotNeededError: the recipient is so far behind that its next release
                is no longer kept.
            TransformError: it claims releases that do not exist.
        """
        self.task.roster.participant(recipient)
        if since > self.version:
            raise TransformError(
                f"{recipient!r} asks for what follows release {since}, but the newest "
                f"is {self.version}: it belongs to another federation, or a server "
                "goes on from an old copy"
            )
        self._pending.forget(recipient, since if opened is None else min(opened, since))
        releases = self._pending.releases
        if since == self.version:
            return None
        if since + 1 not in releases:
            raise SnapshotNeededError(
                f"release {since + 1} is no longer kept; {recipient!r} must start from "
                "a snapshot of the released weights"
            )
        last = since + 1
        count, octets = releases[last].count, len(releases[last].encoded)
        config = self.task.config
        merge = merge and self._suite.merges_in(
            config.combine, config.n_buffers, config.clip
        )
        while merge and last < self.version:
            count += releases[last + 1].count
            octets += len(releases[last + 1].encoded)
            # The download's header carries all their signed lists.
            if count > config.max_additions or octets > MAX_HEADER_BYTES // 2:
                break
            last += 1
        return since + 1, last

    def begin(
        self, recipient: str, first: int, last: int
    ) -> Envelope[TransformRequest]:
        """Run the first phase for the releases `first..last`."""
        kept = [self._pending.releases[v] for v in range(first, last + 1)]
        with self._observe("first_phase"):
            total = self._cipher.merge([release.total for release in kept])
            parts, own = self._cipher.begin(total, recipient)
        signed = tuple(release.encoded for release in kept)
        self._transforms[recipient] = _Begun(first, last, own, signed)
        request = TransformRequest(
            cfg=self.task.cfg,
            sender=self._secret.name,
            recipient=recipient,
            first=first,
            last=last,
            opened=self._pending.fetched[recipient],
        )
        return seal(request, self._secret.signing, parts)

    def finish(self, reply: Envelope[TransformReply]) -> Envelope[Download]:
        """Turn the KTS's reply into the recipient's download.

        Raises:
            SignatureError: the reply is not the KTS's.
            TransformError: it answers no open request.
        """
        reply.verify(self.task.roster.key_transform.signing_key)
        header = reply.header
        begun = self._transforms.get(header.recipient)
        if begun is None or (header.first, header.last) != (begun.first, begun.last):
            raise TransformError(
                f"the reply is for releases {header.first}..{header.last} of "
                f"{header.recipient!r}, which were not asked for; begin again"
            )
        parts = self._cipher.finish(begun.own, reply.parts)
        del self._transforms[header.recipient]
        download = Download(
            cfg=self.task.cfg,
            sender=self._secret.name,
            recipient=header.recipient,
            releases=begun.signed,
            version=self.version,
        )
        return seal(download, self._secret.signing, parts)
