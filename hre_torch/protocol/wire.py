"""The envelope of every message: signed, versioned, length-checked, never unpickled.

The header is MessagePack and lists size
and SHA-256 of every part, so that one Ed25519 signature over everything before it
covers the parts as well, and a server that gets only some of them can still check the
header.

On the wire it is

    "HRE1" | header length u32 | proof length u32 | header | proof | signature | parts

with big-endian lengths. The parts follow without lengths: the header lists them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, TypeVar, cast

import msgspec
import numpy.typing as npt

import hre_torch
from hre_torch import errors
from hre_torch.crypto.keys.signatures import SIGNATURE_BYTES, SigningKey, verify
from hre_torch.errors import (
    HREError,
    MessageError,
    ProtocolError,
    WrongTaskError,
)

__all__ = [
    "DIGEST_BYTES",
    "LENGTHS_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_NAME",
    "Digest",
    "Envelope",
    "Header",
    "MaybeDigest",
    "Name",
    "Number",
    "Part",
    "Refusal",
    "cut",
    "decode",
    "decode_head",
    "kind_of",
    "lengths_of",
    "octets_of",
    "parse_header",
    "refuse",
    "seal",
    "signed_bytes",
    "split",
]

_FAMILY: Final = b"HRE"
_MAGIC: Final = _FAMILY + b"1"
_LENGTHS: Final = struct.Struct(">4sII")
LENGTHS_BYTES: Final = _LENGTHS.size
"""Octets in front of the header: magic and two lengths."""
MAX_HEADER_BYTES: Final = 1 << 20
"""A release list of K = 1,000 uploads is about 100 KB; ten times that is refused."""
_LONG_OCTETS: Final = 1 << 16


def signed_bytes(header_bytes: bytes, proof: bytes) -> bytes:
    """Return what a signature covers: magic, lengths, header, proof."""
    lengths = _LENGTHS.pack(_MAGIC, len(header_bytes), len(proof))
    return lengths + header_bytes + proof


def lengths_of(start: bytes) -> tuple[int, int]:
    """Return how many octets header and proof of a message take.

    Args:
        start: at least the first `LENGTHS_BYTES` octets of the message.

    Raises:
        MessageError: that is not how a message starts.
    """
    if len(start) < LENGTHS_BYTES:
        raise MessageError(
            f"a message starts with {LENGTHS_BYTES} octets of magic and lengths, but "
            f"only {len(start)} octets arrived"
        )
    magic, header_size, proof_size = _LENGTHS.unpack_from(start)
    if magic != _MAGIC:
        known = magic[: len(_FAMILY)] == _FAMILY
        other = magic[len(_FAMILY) :].decode("ascii", "replace")
        raise MessageError(
            f"a message starts with {_MAGIC!r}, this one with {magic!r}: "
            + (
                f"made by a version of hre_torch whose messages have format {other!r}; "
                f"this is version {hre_torch.__version__}, use the same on both sides"
                if known
                else "not an hre_torch message"
            )
        )
    return header_size, proof_size


def split(data: bytes, max_bytes: int) -> tuple[bytes, bytes, bytes, memoryview]:
    """Return header, proof, signature and body of a message.

    Args:
        data: everything that was received.
        max_bytes: most octets of proof, and of the body.

    Raises:
        MessageError: lengths do not fit what arrived, or exceed their limits.
    """
    header_size, proof_size = lengths_of(data)
    if header_size > MAX_HEADER_BYTES or proof_size > max_bytes:
        raise MessageError(
            f"header of {header_size} or proof of {proof_size} octets is over the "
            f"limits of {MAX_HEADER_BYTES} and {max_bytes}"
        )
    fixed = _LENGTHS.size + header_size + proof_size + SIGNATURE_BYTES
    if not fixed <= len(data) <= fixed + max_bytes:
        raise MessageError(
            f"{len(data)} octets arrived, but header, proof and signature take {fixed} "
            f"and the task allows at most {max_bytes} more: truncated, or too long"
        )
    start = _LENGTHS.size
    view = memoryview(data)
    header = bytes(view[start : start + header_size])
    start += header_size
    proof = bytes(view[start : start + proof_size])
    start += proof_size
    return header, proof, bytes(view[start:fixed]), view[fixed:]


def cut(body: memoryview, parts: Iterable[tuple[int, bytes]]) -> tuple[bytes, ...]:
    """Return the parts of a body.

    A long part is a view of the body and no copy, so that a large model is not in
    memory twice. Whatever one does with bytes that are only read (hash, slice, join,
    compare, `np.frombuffer`) one can do with a view.

    Args:
        body: what follows the signature.
        parts: size and SHA-256 of every part.

    Raises:
        MessageError: it is longer or shorter, or a part has another hash.
    """
    listed = list(parts)
    expected = sum(size for size, _ in listed)
    if expected != len(body):
        raise MessageError(
            f"the header announces {expected} octets of body, but {len(body)} arrived"
        )
    pieces: list[bytes] = []
    start = 0
    for index, (size, digest) in enumerate(listed):
        piece = body[start : start + size].toreadonly()
        start += size
        if hashlib.sha256(piece).digest() != digest:
            raise MessageError(
                f"part {index} does not have the SHA-256 that the header announces: it "
                "was changed on its way; send the identical bytes again"
            )
        # Short ones are copied, lest they keep the whole message in memory.
        pieces.append(cast("bytes", piece) if size >= _LONG_OCTETS else bytes(piece))
    return tuple(pieces)


def octets_of(array: npt.NDArray[Any]) -> bytes:
    """Return the memory of an array as a part, without copying it.

    Args:
        array: C-contiguous; it must not change as long as the part is in use.
    """
    return cast("bytes", array.data.cast("B").toreadonly())


DIGEST_BYTES: Final = 32
MAX_NAME: Final = 64
_MOST_COMPLAINT: Final = 2000
MAX_PARTS: Final = 8

Digest = Annotated[
    bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)
]
"""A SHA-256; any other length is refused when a header is parsed."""
MaybeDigest = Annotated[bytes, msgspec.Meta(max_length=DIGEST_BYTES)]
"""A SHA-256, or nothing."""
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
"""An identity; short, since errors, logs and refusals repeat it."""
Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""A sequence number, version or size; never negative, and any database holds it."""


class Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Size and SHA-256 of one part of the body."""

    size: Number
    digest: Digest

    @classmethod
    def of(cls, body: bytes) -> Part:
        """Describe one part."""
        return cls(len(body), hashlib.sha256(body).digest())


class Header(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="kind",
    forbid_unknown_fields=True,
):
    """What every message says: its task, its sender, its parts."""

    cfg: Digest
    sender: Name
    parts: tuple[Part, ...] = ()


class Refusal(Header, frozen=True, kw_only=True, tag="refusal"):
    """A typed error across the wire.

    Attributes:
        error: class name in `hre_torch.errors`.
        message: its message.
        about: SHA-256 of the bytes that are refused, as they arrived, where they came
            over a network: whoever sent other bytes knows to send them again.
        upload: digest of the upload that is refused for good: a list that names it and
            is signed later convicts whoever refused it. Empty in any other refusal,
            which is no last word.
        version: newest release of whoever refuses the upload.
        release: signed list that rules the upload out, encoded; empty if none does.
    """

    error: Name
    message: Annotated[str, msgspec.Meta(max_length=_MOST_COMPLAINT)]
    about: MaybeDigest = b""
    upload: MaybeDigest = b""
    version: Number = 0
    release: bytes = b""

    def exception(self) -> HREError:
        """Return the exception that this refusal stands for."""
        kind = getattr(errors, self.error, None)
        if isinstance(kind, type) and issubclass(kind, HREError):
            error: HREError = kind(self.message)
        else:
            error = ProtocolError(
                f"{self.sender} refused with {self.error}: {self.message}"
            )
        error.upload, error.version = self.upload, self.version
        error.release = self.release
        return error


H = TypeVar("H", bound=Header)


@dataclass(frozen=True, slots=True)
class Envelope(Generic[H]):
    """A decoded or freshly signed message.

    Attributes:
        header: the typed header.
        header_bytes: its exact encoding, which the signature covers.
        parts: the body, as listed in `header.parts`.
        proof: zero-knowledge proof, where a suite asks for one.
        signature: Ed25519 over lengths, header and proof.
    """

    header: H
    header_bytes: bytes
    parts: tuple[bytes, ...]
    proof: bytes
    signature: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 of header and proof: the name of this message in lists."""
        return hashlib.sha256(signed_bytes(self.header_bytes, self.proof)).digest()

    def encode(self) -> bytes:
        """Return the bytes that travel."""
        return b"".join(
            (
                signed_bytes(self.header_bytes, self.proof),
                self.signature,
                *self.parts,
            )
        )

    def verify(self, public: bytes) -> None:
        """Check the signature.

        Raises:
            SignatureError: it is not the named sender's.
        """
        message = signed_bytes(self.header_bytes, self.proof)
        verify(public, self.signature, message, who=self.header.sender)


def seal(
    header: H,
    key: SigningKey,
    parts: tuple[bytes, ...] = (),
    *,
    prove: Callable[[bytes], bytes] | None = None,
) -> Envelope[H]:
    """Return a signed envelope.

    Args:
        header: everything but `parts`, which this fills in.
        key: the sender's signing key.
        parts: the body.
        prove: makes the proof, given the encoded header with the hashes of all parts.
    """
    full = msgspec.structs.replace(header, parts=tuple(map(Part.of, parts)))
    encoded = msgspec.msgpack.encode(full)
    proof = prove(encoded) if prove is not None else b""
    signature = key.sign(signed_bytes(encoded, proof))
    return Envelope(full, encoded, parts, proof, signature)


def decode(
    data: bytes, kind: type[H], *, cfg: bytes | None = None, max_bytes: int
) -> Envelope[H]:
    """Parse one envelope; no arithmetic happens before this has succeeded.

    A `Refusal` where another kind is expected is raised as the error it stands for.
    The signature is *not* checked here, since the caller knows whose it should be.

    Args:
        data: everything that was received.
        kind: the header class that is expected.
        cfg: task that the message must belong to; None accepts any.
        max_bytes: most bytes of parts and proof that the task allows.

    Raises:
        MessageError: not a well-formed message of that kind.
        WrongTaskError: well formed, but of another task.
        HREError: the error a `Refusal` stands for.
    """
    header_bytes, proof, signature, body = split(data, max_bytes)
    header = parse_header(header_bytes, Refusal | kind)
    if isinstance(header, Refusal) and kind is not Refusal:
        raise header.exception()
    _check_task(header, cfg)
    return Envelope(header, header_bytes, _parts(body, header), proof, signature)


def decode_head(data: bytes, kind: type[H], *, cfg: bytes | None) -> Envelope[H]:
    """Parse a message up to its signature, before its body has even arrived.

    Args:
        data: the first octets of the message, signature included and nothing after it.
        kind: the header class that is expected.
        cfg: task that the message must belong to; None accepts any.

    Raises:
        MessageError: not the head of a message of that kind.
        WrongTaskError: of another task.
    """
    header_bytes, proof, signature, rest = split(data, len(data))
    if len(rest):
        raise MessageError(f"{len(rest)} octets follow the signature of a head")
    header = parse_header(header_bytes, kind)
    _check_task(header, cfg)
    return Envelope(header, header_bytes, (), proof, signature)


class _Kind(msgspec.Struct):
    kind: str


def kind_of(data: bytes) -> str:
    """Return the tag of an encoded envelope, such as `"upload"`, checking no more.

    Raises:
        MessageError: there is no header with a kind.
    """
    header_bytes, *_ = split(data, len(data))
    kind: str = parse_header(header_bytes, _Kind).kind
    return kind


def parse_header(header_bytes: bytes, kind: Any) -> Any:
    """Parse header bytes as one of the given header classes.

    Raises:
        MessageError: they are not such a header.
    """
    try:
        header = msgspec.msgpack.decode(header_bytes, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        expected = getattr(kind, "__name__", str(kind))
        raise MessageError(
            f"expected a {expected} message: {error}; check that both sides run the "
            f"same version of hre_torch, here {hre_torch.__version__}"
        ) from None
    if isinstance(header, Header) and len(header.parts) > MAX_PARTS:
        raise MessageError(
            f"a message has at most {MAX_PARTS} parts, this one lists "
            f"{len(header.parts)}"
        )
    return header


def _parts(body: memoryview, header: Header) -> tuple[bytes, ...]:
    return cut(body, [(part.size, part.digest) for part in header.parts])


def _check_task(header: Header, cfg: bytes | None) -> None:
    if cfg is not None and header.cfg != cfg:
        raise WrongTaskError(
            f"the message belongs to task {header.cfg.hex()[:16]}, this is task "
            f"{cfg.hex()[:16]}; join the current task and start from its released state"
        )


def refuse(
    error: HREError, *, cfg: bytes, sender: str, key: SigningKey, about: bytes = b""
) -> bytes:
    """Return an encoded refusal that carries a typed error to whoever asked."""
    header = Refusal(
        cfg=cfg,
        sender=sender,
        error=type(error).__name__,
        message=str(error)[:_MOST_COMPLAINT],
        about=about,
        upload=error.upload,
        version=error.version,
        release=error.release,
    )
    return seal(header, key).encode()
