"""The three ciphers of a suite: what each role computes, without any bookkeeping."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = [
    "Body",
    "DataServiceCipher",
    "Integers",
    "KeyTransformCipher",
    "ParticipantCipher",
    "Parts",
    "SealedBody",
    "no_proof",
]

Parts = tuple[bytes, ...]
"""Parts of a body. A long one may be a read-only memoryview: see `envelope`."""
Integers = npt.NDArray[np.signedinteger]
Total = TypeVar("Total")
Prover = Callable[[bytes], bytes]


def no_proof(header: bytes) -> bytes:
    """Return the empty proof of a suite that asks for none."""
    return b""


@dataclass(frozen=True, slots=True)
class SealedBody:
    """Body of an upload before it is signed.

    Attributes:
        parts: what travels.
        prove: makes the proof, once the header with the hashes of all parts is known.
    """

    parts: Parts
    prove: Prover = field(default=no_proof, repr=False)


@dataclass(frozen=True, slots=True)
class Body:
    """What arrives of an upload: at the DSP all parts, at the KTS the forwarded ones.

    Attributes:
        parts: as they travelled; their hashes are checked against the header.
        header: the exact header bytes, which the proof is bound to.
        proof: the proof.
    """

    parts: Parts
    header: bytes = b""
    proof: bytes = b""


class ParticipantCipher(ABC):
    """Seals updates and opens downloads."""

    @abstractmethod
    def encrypt(self, values: Integers) -> SealedBody:
        """Return the body of an upload.

        Args:
            values: quantised, shape `(n_sealed,)`, int32, or int16 where they fit.
        """

    @abstractmethod
    def decrypt(self, parts: Parts, count: int) -> Integers:
        """Return the sum in a download.

        Args:
            parts: body of the download.
            count: how many uploads the signed lists say it sums.

        Returns:
            int64, or int32 where every sum fits, shape `(n_sealed,)`.

        Raises:
            ChecksumError, SlotOverflowError: the content is not a sum of `count`
                updates; see `Suite.judged` for what follows.
            DecryptionError, InvalidElementError: the key transform went wrong.
        """

    def commitment(self, parts: Parts) -> bytes:
        """Return the hash that the signed release must hold for this body.

        Empty where a release commits to its list of uploads only.
        """
        return b""


class DataServiceCipher(ABC, Generic[Total]):
    """Adds uploads and runs the first phase."""

    @abstractmethod
    def load(self, body: Body) -> Total:
        """Check and decode the body of an upload.

        Raises:
            InvalidElementError, MessageError: it is malformed.
            ProofError: its proof does not verify.
        """

    @abstractmethod
    def add(self, totals: Sequence[Total]) -> Total:
        """Return the sum of one or more uploads (or sums of them)."""

    def merge(self, releases: Sequence[Total]) -> Total:
        """Return the sum of consecutive releases, for a recipient that is behind.

        A single release is returned itself, with whatever is cached in it.
        """
        return releases[0] if len(releases) == 1 else self.add(releases)

    def forward(self, total: Total) -> Parts:
        """Return the parts of a single upload that the KTS gets as well."""
        return ()

    def commitment(self, total: Total) -> bytes:
        """Return the hash of a sum that the KTS signs into the release, if any."""
        return b""

    @abstractmethod
    def begin(self, total: Total, recipient: str) -> tuple[Parts, Any]:
        """Return the body of a transform request, and what `finish` will need."""

    @abstractmethod
    def finish(self, kept: Any, reply: Parts) -> Parts:
        """Return the body of the download.

        Args:
            kept: what `begin` returned for this request.
            reply: body of the KTS's reply.

        Raises:
            InvalidElementError, MessageError: the reply is malformed.
        """

    @abstractmethod
    def dump(self, total: Total) -> Parts:
        """Return a sum as bytes that `restore` reads."""

    @abstractmethod
    def restore(self, parts: Parts) -> Total:
        """Return a sum from the bytes that `dump` wrote."""


class KeyTransformCipher(ABC, Generic[Total]):
    """Logs what the suite forwards of an upload, and runs the second phase."""

    @abstractmethod
    def load(self, body: Body) -> Total:
        """Check and decode the forwarded parts of an upload.

        Raises:
            InvalidElementError, MessageError: they are malformed.
            ProofError: the proof does not verify.
        """

    @abstractmethod
    def add(self, totals: Sequence[Total]) -> Total:
        """Return the KTS's own sum of one or more uploads."""

    @abstractmethod
    def transform(self, total: Total, request: Parts, recipient: str) -> Parts:
        """Return the body of a transform reply.

        Args:
            total: the KTS's own sum of the releases asked for.
            request: body of the DSP's request.
            recipient: whose key the answer is for.

        Raises:
            InvalidElementError, MessageError: the request is malformed.
        """

    @abstractmethod
    def dump(self, total: Total) -> Parts:
        """Return a sum as bytes that `restore` reads."""

    @abstractmethod
    def restore(self, parts: Parts) -> Total:
        """Return a sum from the bytes that `dump` wrote."""
