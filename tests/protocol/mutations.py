"""Malformed bytes by the ten thousand: seeded, fast, and mostly near something valid.

Random octets die at the first check. So most mutants start from real messages, and half
of them keep their outer form and are wrong inside: an integer for a hash, a list nested
a thousand deep, a key that is there twice, a length that promises four gigabytes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from hre_torch.crypto.keys.signatures import SIGNATURE_BYTES, SigningKey
from hre_torch.protocol.wire import signed_bytes

NESTED = b"\x91" * 3000 + b"\xc0"

CONFUSIONS: tuple[bytes, ...] = (
    *(b"\x00", b"\x01", b"\xff", b"\xe0", b"\x7f"),
    *(b"\xce\x7f\xff\xff\xff", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7)),
    *(b"\xcf\x7f" + b"\xff" * 7, b"\xd2\xff\xff\xff\xff"),
    *(
        b"\xcb" + struct.pack(">d", x)
        for x in (float("nan"), float("inf"), -0.5, 1e300)
    ),
    *(b"\xca\x7f\xc0\x00\x00", b"\xc0", b"\xc2", b"\xc3", b"\xc1"),
    *(b"\xa0", b"\xa3kts", b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80", b"\xa1\x00"),
    *(b"\xda\x13\x88" + b"x" * 5000, b"\xd9\xff" + b"\xc3\xa9" * 127 + b"!"),
    *(b"\xc4\x00", b"\xc4\x1f" + bytes(31), b"\xc4\x20" + bytes(32)),
    *(b"\xc4\x21" + bytes(33), b"\xc5\x27\x10" + bytes(10_000)),
    *(b"\x90", b"\x80", b"\x91\x91\x90", b"\x81\xa1a\x01", b"\x93\x01\x02\x03"),
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"),
    *(b"\xc6\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xde\xff\xff"),
    *(b"\xd4\x01\x00", b"\xd6\xff" + bytes(4), b"\xc7\x0c\xff" + bytes(12)),
    NESTED,
)
"""Encodings that have no business where they are put; some are none at all."""

LENGTHS = (0, 1, 63, 64, 65, 1 << 16, (1 << 20) + 1, (1 << 31) - 1, (1 << 32) - 1)


class Raw(bytes):
    """Octets that stand for themselves when packed."""


def pack(value: Any) -> bytes:
    """Return MessagePack of a tree in which maps are lists of pairs."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, dict):
        value = list(value.items()) or Raw(b"\x80")
        return pack(value)
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        head = b"\xdf" + len(value).to_bytes(4, "big")
        return head + b"".join(pack(k) + pack(v) for k, v in value)
    if isinstance(value, list | tuple):
        head = b"\xdd" + len(value).to_bytes(4, "big")
        return head + b"".join(map(pack, value))
    return msgspec.msgpack.encode(value)


class Mutator:
    """Makes mutants of samples; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def octets(self, samples: Sequence[bytes]) -> bytes:
        """Return a mutant of one sample, or of two, without a look inside."""
        draw = self.random
        data = bytearray(draw.choice(samples))
        if draw.random() < 0.02:
            return draw.randbytes(draw.randrange(400))
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            at = draw.randrange(len(data) + 1)
            kind = draw.randrange(7)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            elif kind == 1:
                del data[at:]
            elif kind == 2:
                data[at:at] = draw.randbytes(draw.randrange(1, 9))
            elif kind == 3:
                del data[at : at + draw.randrange(1, 40)]
            elif kind == 4:
                data[at : at + 4] = draw.choice(LENGTHS).to_bytes(4, "big")
            elif kind == 5:
                other = draw.choice(samples)
                data[at:] = other[draw.randrange(len(other) + 1) :]
            else:
                data[at : at + 1] = draw.choice(CONFUSIONS)
        return bytes(data)

    def record(self, samples: Sequence[bytes]) -> bytes:
        """Return valid or nearly valid MessagePack with something wrong inside."""
        draw = self.random
        tree = msgspec.msgpack.decode(draw.choice(samples))
        for _ in range(draw.choice((1, 1, 2))):
            tree = self._nudge(tree) if draw.random() < 0.5 else self._spoil(tree)
        return pack(tree)

    def document(self, samples: Sequence[bytes]) -> bytes:
        """Return JSON with something wrong, or what is nearly JSON."""
        if self.random.random() < 0.5:
            return self.octets(samples)
        tree = self._nudge(json.loads(self.random.choice(samples)))
        return json.dumps(tree, indent=2).encode() + b"\n"

    def message(self, samples: Sequence[bytes]) -> bytes:
        """Return a mutant of an envelope."""
        draw = self.random
        if draw.random() < 0.5:
            return self.octets(samples)
        header, proof, signature, body = split(draw.choice(samples))
        header = self.record([header])
        if draw.random() < 0.2:
            body = self.octets([body])
        sizes = [len(header), len(proof)]
        if draw.random() < 0.1:
            sizes[draw.randrange(2)] = draw.choice(LENGTHS)
        start = struct.pack(">4sII", b"HRE1", *sizes)
        return start + header + proof + signature + body

    def signed(self, samples: Sequence[bytes], key: SigningKey) -> bytes:
        """Return a mutant that its sender signs: what an insider can send."""
        draw = self.random
        header, proof, _, body = split(draw.choice(samples))
        kind = draw.randrange(4)
        if kind == 0 and proof:
            proof = self.octets([proof])
        elif kind == 1 and body:
            fields = msgspec.msgpack.decode(header)
            parts = [self.octets([body]) for _ in fields["parts"]]
            if draw.random() < 0.8:
                # Of the right size, so that it gets as far as the arithmetic.
                sizes = [size for size, _ in fields["parts"]]
                parts = [
                    (part * (1 + size // max(1, len(part))))[:size]
                    for part, size in zip(parts, sizes, strict=True)
                ]
            fields["parts"] = [
                [len(part), hashlib.sha256(part).digest()] for part in parts
            ]
            header, body = msgspec.msgpack.encode(fields), b"".join(parts)
        else:
            header = self.record([header])
        signature = key.sign(signed_bytes(header, proof))
        return signed_bytes(header, proof) + signature + body

    def _nudge(self, tree: Any) -> Any:
        """Return a tree with another value of the same type somewhere."""
        draw = self.random
        if isinstance(tree, dict) and tree:
            key = draw.choice(list(tree))
            if draw.random() < 0.1:
                return {(self._nudge(k) if k == key else k): v for k, v in tree.items()}
            return tree | {key: self._nudge(tree[key])}
        if isinstance(tree, list) and tree:
            at = draw.randrange(len(tree))
            return [*tree[:at], self._nudge(tree[at]), *tree[at + 1 :]]
        if isinstance(tree, bytes) and tree:
            return self.octets([tree]) if draw.random() < 0.3 else self._flip(tree)
        if isinstance(tree, bool):
            return not tree
        if isinstance(tree, int):
            return draw.choice((tree + 1, max(0, tree - 1), draw.randrange(1 << 20)))
        if isinstance(tree, str):
            return draw.choice(("", "p0", "p1", "kts", tree + "x", tree[::-1]))
        return tree

    def _flip(self, octets: bytes) -> bytes:
        at = self.random.randrange(len(octets))
        flipped = octets[at] ^ 1 << self.random.randrange(8)
        return octets[:at] + bytes([flipped]) + octets[at + 1 :]

    def _spoil(self, tree: Any) -> Any:
        """Return a tree with one node exchanged, doubled, moved or taken away."""
        draw = self.random
        if isinstance(tree, dict):
            tree = list(tree.items())
        if not isinstance(tree, list) or not tree or draw.random() < 0.15:
            return Raw(draw.choice(CONFUSIONS))
        at = draw.randrange(len(tree))
        kind = draw.randrange(8)
        if kind == 0:
            del tree[at]
        elif kind == 1:
            tree.insert(at, tree[draw.randrange(len(tree))])
        elif isinstance(tree[at], tuple):
            key, value = tree[at]
            if kind == 2:
                tree[at] = (Raw(draw.choice(CONFUSIONS)), value)
            elif kind == 3:
                tree[at] = (draw.choice(tree)[0], value)
            else:
                tree[at] = (key, self._spoil(value))
        else:
            tree[at] = self._spoil(tree[at])
        return tree or Raw(b"\x80")


def split(envelope: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Return header, proof, signature and body of a valid envelope."""
    _, header, proof = struct.unpack_from(">4sII", envelope)
    start = struct.calcsize(">4sII")
    ends = (start, start + header, start + header + proof)
    cuts = (*ends, ends[-1] + SIGNATURE_BYTES, len(envelope))
    first, second, third, fourth = (
        envelope[low:high] for low, high in itertools.pairwise(cuts)
    )
    return first, second, third, fourth
