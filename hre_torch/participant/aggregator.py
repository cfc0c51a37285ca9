"""The interface that every aggregator backend implements: bytes in, bytes out.

An aggregator plug-in is a callable `factory(name, **options) -> Aggregator` that opens
the connection of the participant `name`. A third party adds one with
`AGGREGATORS.register("name")(factory)`, or by an entry point of the group
`hre_torch.aggregators`:

>>> from hre_torch.servers.local import LocalAggregator
>>> @AGGREGATORS.register("counting-example")
... class CountingAggregator(LocalAggregator):
...     uploads = 0
...
...     def submit(self, upload):
...         CountingAggregator.uploads += 1
...         return super().submit(upload)
>>> "counting-example" in AGGREGATORS.names()
True
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Final

from hre_torch.registry import Registry

__all__ = ["AGGREGATORS", "Aggregator"]

AGGREGATORS: Final[Registry[Callable[..., Aggregator]]] = Registry(
    "aggregator",
    "hre_torch.aggregators",
    {
        "http": "hre_torch.participant.http:HTTPAggregator",
        "local": "hre_torch.servers.local:LocalAggregator",
    },
)


class Aggregator(ABC):
    """One participant's connection to the DSP.

    A backend carries encoded messages and knows nothing of what is in them. Errors of
    the far end come back as encoded `Refusal` messages; an `AggregatorError` means
    that the backend could not carry the message at all.
    """

    opened: int | None = None
    """Last release that the participant will never fetch again, where that is older
    than the one after which it fetches: servers keep what follows it."""

    def joined(self) -> int | None:
        """Return how many participants have joined, if this backend can tell."""
        return None

    def others_may_push(self) -> bool:
        """Note that this participant pushes no more; return whether others still may.

        True where the backend cannot tell. Others that this very thread would have to
        run are none.
        """
        return True

    @abstractmethod
    def submit(self, upload: bytes) -> bytes:
        """Send an encoded `Upload`; return the encoded `Ack` or `Refusal`.

        Sending identical bytes again is always safe.

        Raises:
            AggregatorError: nobody knows whether the message arrived.
        """

    @abstractmethod
    def fetch(self, since: int, *, merge: bool = True) -> Iterator[bytes]:
        """Yield encoded `Download` messages (or a `Refusal`), oldest first.

        Args:
            since: last release that the participant has opened.
            merge: False to get releases singly even where the suite allows merging.

        Raises:
            AggregatorError: the far end could not be reached.
        """

    def end_within(self, seconds: float) -> None:  # noqa: B027
        """Go on with what is under way for so long at most; `close` comes next.

        A backend that never waits for a far end has nothing to do here.
        """

    @abstractmethod
    def declare(self, statement: bytes) -> bytes:
        """Send an encoded `Statement`; return a `StatementReply` or a `Refusal`.

        Sending identical bytes again is always safe.

        Raises:
            AggregatorError: nobody knows whether the message arrived.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back connections and threads; closing twice is no mistake."""
