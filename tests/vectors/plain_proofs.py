"""The proofs of blocks and of knowledge once more, in plain Python.

An independent prover and verifier for known answers: integers, `pow` and `hashlib`
only, nothing of hre_torch, no tables, no shared exponentiation, every weight applied
one by one. Modulus and widths are those of the shipped profile `toy-insecure`.

A case of blocks is a dict of `joint`, `plaintexts` (rows), `randomness`, `header`, the
masks `u` and `w` (one for each group), `heads`, `lanes` (rows) and `proof`; a case of
keys has `secrets`, `public`, `context`, `w`, `proof`, and a key card also `suite`,
`role`, `name` and `signing_key`, which make its context.
"""

from __future__ import annotations

import hashlib
import math

N = int(
    "fab949c175de659840a961cce13bd19dacfb5468e31238f7189af9c053ebf15a"
    "a651e3faaf5d79eb9e20f1788c80aac4a48304963e04a6d4c4aa98bd14d16455",
    16,
)
N2 = N * N
LANES = 3
EXPONENT_BITS = 64
RESIDUE = 64
ELEMENT = 128


def generator() -> int:
    seed = b"hre_torch generator 1" + N.to_bytes(RESIDUE, "big")
    h = int.from_bytes(hashlib.shake_256(seed).digest(RESIDUE + 16), "big") % N
    return pow(h, 2 * N, N2)


G = generator()
DIGEST = hashlib.sha256(
    b"hre_torch parameters 1"
    + RESIDUE.to_bytes(4, "big")
    + N.to_bytes(RESIDUE, "big")
    + G.to_bytes(ELEMENT, "big")
    + LANES.to_bytes(4, "big")
    + EXPONENT_BITS.to_bytes(4, "big")
).digest()


def squeeze(length: int, *parts: bytes) -> bytes:
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hashlib.shake_256(framed).digest(length)


def weights(seed: bytes, name: bytes, count: int) -> list[int]:
    octets = squeeze(16 * count, b"weights", seed, name)
    return [int.from_bytes(octets[16 * k : 16 * k + 16], "big") for k in range(count)]


def challenge(seed: bytes, commitments: list[int]) -> int:
    encoded = b"".join(c.to_bytes(ELEMENT, "big") for c in commitments)
    return int.from_bytes(squeeze(16, b"challenge", seed, encoded), "big")


def mask_bits(count: int) -> int:
    return 128 + 128 + EXPONENT_BITS + math.ceil(math.log2(count)) + 128


def response_bytes(count: int) -> int:
    return (mask_bits(count) + 1 + 7) // 8


def parse(
    proof: bytes, count: int, n_commitments: int, n_responses: int, opening: bool
):
    """Return commitments and integers, or None if the bytes are not canonical."""
    width = response_bytes(count)
    expected = n_commitments * ELEMENT + n_responses * width + opening * RESIDUE
    if len(proof) != expected:
        return None
    commitments, integers, at = [], [], 0
    for _ in range(n_commitments):
        commitments.append(int.from_bytes(proof[at : at + ELEMENT], "big"))
        at += ELEMENT
    for _ in range(n_responses):
        integers.append(int.from_bytes(proof[at : at + width], "big"))
        at += width
    if opening:
        integers.append(int.from_bytes(proof[at:], "big"))
        if integers[-1] >= N:
            return None
    if any(z >= 1 << (mask_bits(count) + 1) for z in integers[:n_responses]):
        return None
    if any(not 0 < c < N2 or math.gcd(c, N) != 1 for c in commitments):
        return None
    return commitments, integers


def groups_of(rows: list[list[int]]) -> list[list[int]]:
    """Return the indices of the full blocks, then of the short one, if there is one."""
    full = [k for k, row in enumerate(rows) if len(row) == LANES]
    short = [k for k, row in enumerate(rows) if len(row) != LANES]
    return [group for group in (full, short) if group]


def prove_blocks(case: dict) -> bytes:
    rows, r = case["plaintexts"], case["randomness"]
    seed = squeeze(32, b"hre_torch proof of blocks 1", DIGEST, case["header"])
    x, y = weights(seed, b"blocks", len(rows)), weights(seed, b"lanes", LANES)
    first = 1 + case["u"] * N
    commitments = []
    for group, w in zip(groups_of(rows), case["w"], strict=True):
        for j in range(len(rows[group[0]])):
            first = first * pow(case["joint"][j], y[j] * w, N2) % N2
        commitments.append(pow(G, w, N2))
    commitments.insert(0, first)
    ch = challenge(seed, commitments)
    proof = b"".join(c.to_bytes(ELEMENT, "big") for c in commitments)
    for group, w in zip(groups_of(rows), case["w"], strict=True):
        z = w + ch * sum(x[k] * r[k] for k in group)
        proof += z.to_bytes(response_bytes(len(rows)), "big")
    total = sum(
        x[k] * y[j] * m for k, row in enumerate(rows) for j, m in enumerate(row)
    )
    return proof + ((case["u"] + ch * total) % N).to_bytes(RESIDUE, "big")


def verify_blocks(case: dict) -> tuple[bool, bool]:
    """Return whether the KTS accepts the heads, and the DSP heads and lanes."""
    heads, lanes, joint = case["heads"], case["lanes"], case["joint"]
    groups = groups_of(lanes)
    parsed = parse(case["proof"], len(heads), 1 + len(groups), len(groups), True)
    if parsed is None:
        return False, False
    commitments, integers = parsed
    seed = squeeze(32, b"hre_torch proof of blocks 1", DIGEST, case["header"])
    x, y = weights(seed, b"blocks", len(heads)), weights(seed, b"lanes", LANES)
    ch = challenge(seed, commitments)
    heads_hold = True
    left = 1 + integers[-1] * N
    for group, c, z in zip(groups, commitments[1:], integers, strict=False):
        right = c
        for k in group:
            right = right * pow(heads[k], x[k] * ch, N2) % N2
        heads_hold &= pow(G, 2 * z, N2) == right * right % N2
        for j in range(len(lanes[group[0]])):
            left = left * pow(joint[j], y[j] * z, N2) % N2
    right = commitments[0]
    for k, row in enumerate(lanes):
        for j, element in enumerate(row):
            right = right * pow(element, x[k] * y[j] * ch, N2) % N2
    return heads_hold, heads_hold and left * left % N2 == right * right % N2


def card_context(card: dict) -> bytes:
    """Return the MessagePack array of label, profile, suite, role, name and key."""
    texts = ("hre_torch key card 2", "toy-insecure", card["suite"], card["role"])
    packed = b"\x96"
    for text in (*texts, card["name"]):
        octets = text.encode()
        long = len(octets) > 31
        packed += b"\xd9" * long + bytes([len(octets) | (0 if long else 0xA0)]) + octets
    return packed + b"\xc4" + bytes([len(card["signing_key"])]) + card["signing_key"]


def key_seed(case: dict) -> bytes:
    encoded = b"".join(h.to_bytes(ELEMENT, "big") for h in case["public"])
    label = b"hre_torch proof of knowledge 1"
    return squeeze(32, label, DIGEST, case["context"], encoded)


def prove_keys(case: dict) -> bytes:
    seed, count = key_seed(case), len(case["public"])
    commitment = pow(G, case["w"], N2)
    x, ch = weights(seed, b"lanes", count), challenge(seed, [commitment])
    z = case["w"] + ch * sum(map(int.__mul__, x, case["secrets"]))
    return commitment.to_bytes(ELEMENT, "big") + z.to_bytes(
        response_bytes(count), "big"
    )


def verify_keys(case: dict) -> bool:
    parsed = parse(case["proof"], len(case["public"]), 1, 1, False)
    if parsed is None:
        return False
    [right], [z] = parsed
    seed = key_seed(case)
    x, ch = weights(seed, b"lanes", len(case["public"])), challenge(seed, [right])
    for weight, h in zip(x, case["public"], strict=True):
        right = right * pow(h, weight * ch, N2) % N2
    return pow(G, 2 * z, N2) == right * right % N2
