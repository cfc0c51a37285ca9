"""Known answers for the proofs of blocks and of knowledge.

Every "random" number is hashed from its name, so the output never changes. The verifier
of `plain_proofs` has accepted every valid vector and refused every invalid one before
it is written. Make the file again with

    python tests/vectors/generate_proofs.py > tests/vectors/proofs.json
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys

from plain_proofs import (
    DIGEST,
    ELEMENT,
    EXPONENT_BITS,
    LANES,
    N2,
    RESIDUE,
    G,
    N,
    card_context,
    groups_of,
    mask_bits,
    prove_blocks,
    prove_keys,
    response_bytes,
    squeeze,
    verify_blocks,
    verify_keys,
)


def expand(label: str, bits: int) -> int:
    """Return the integer of so many bits that belongs to a name."""
    octets = hashlib.shake_256(b"vector " + label.encode()).digest((bits + 7) // 8)
    return int.from_bytes(octets, "big") >> (-bits % 8)


def blocks_case(index: int, n_plaintexts: int) -> dict:
    """Return an honest upload; the first ones hold the extremes of plaintexts."""
    name = f"blocks {index}"
    extremes = [0, 1, -1, N // 2, -(N // 2), N - 1, 1 - N]
    values = [
        extremes[i % 7] if index % 4 == 0 else expand(f"{name} m {i}", 500)
        for i in range(n_plaintexts)
    ]
    rows = [values[i : i + LANES] for i in range(0, n_plaintexts, LANES)]
    r = [expand(f"{name} r {k}", EXPONENT_BITS) for k in range(len(rows))]
    keys = [2 * expand(f"{name} key {j}", EXPONENT_BITS) for j in range(LANES)]
    joint = [pow(G, key, N2) for key in keys]
    case = {
        "joint": joint,
        "plaintexts": rows,
        "randomness": r,
        "header": squeeze(index * 5, name.encode()),
        "u": expand(f"{name} u", 600) % N,
        "w": [expand(f"{name} w {i}", mask_bits(len(rows))) for i in (0, 1)],
        "heads": [pow(G, exponent, N2) for exponent in r],
        "lanes": [
            [(1 + m * N) * pow(joint[j], r[k], N2) % N2 for j, m in enumerate(row)]
            for k, row in enumerate(rows)
        ],
    }
    case["w"] = case["w"][: len(groups_of(rows))]
    case["proof"] = prove_blocks(case)
    return case


def keys_case(name: str, count: int, context: bytes) -> dict:
    """Return an honest proof of `count` keys."""
    secrets = [2 * expand(f"{name} {j}", EXPONENT_BITS - 1) for j in range(count)]
    case = {
        "secrets": secrets,
        "public": [pow(G, secret, N2) for secret in secrets],
        "context": context,
        "w": expand(f"{name} w", mask_bits(count)),
    }
    case["proof"] = prove_keys(case)
    return case


def card_case(suite: str, role: str, name: str) -> dict:
    """Return an honest key card."""
    label = f"card {suite} {name}"
    card = {
        "suite": suite,
        "role": role,
        "name": name,
        "signing_key": squeeze(32, label.encode()),
    }
    return card | keys_case(label, LANES, card_context(card))


def spoil_card(card: dict) -> dict[str, dict]:
    """Return cards that claim something else with the same proof."""
    changes = {
        "another suite": {"suite": "gated" if card["suite"] == "hybrid" else "hybrid"},
        "a suite without proofs": {"suite": "paper"},
        "another role": {"role": "kts" if card["role"] == "dsp" else "dsp"},
        "another name": {"name": card["name"][:-1] + "0"},
        "another signing key": {"signing_key": squeeze(32, b"another")},
        "the keys in another order": {"public": card["public"][::-1]},
    }
    return {
        what: card | change | {"context": card_context(card | change)}
        for what, change in changes.items()
    }


def spoil_proof(proof: bytes, count: int, opening: bool) -> dict[str, bytes]:
    """Return altered proofs, named by what was done."""
    tail = RESIDUE if opening else 0
    width = response_bytes(count)
    first = int.from_bytes(proof[:ELEMENT], "big")

    def with_first(value: int) -> bytes:
        return value.to_bytes(ELEMENT, "big") + proof[ELEMENT:]

    z_end = len(proof) - tail
    z = int.from_bytes(proof[z_end - width : z_end], "big")
    bound = 1 << (mask_bits(count) + 1)

    def with_z(value: int) -> bytes:
        return proof[: z_end - width] + value.to_bytes(width, "big") + proof[z_end:]

    altered = {
        "empty proof": b"",
        "truncated proof": proof[:-1],
        "trailing byte": proof + b"\0",
        "commitment zero": with_first(0),
        "commitment not reduced": with_first(N2),
        "commitment shares a factor": with_first(N),
        "commitment negated": with_first(N2 - first),
        "commitment times 1 + n": with_first(first * (1 + N) % N2),
        "commitment times g": with_first(first * G % N2),
        "response plus one": with_z(z + 1),
        "response minus one": with_z(z - 1),
    }
    if bound < 1 << 8 * width:
        altered["response at its bound"] = with_z(bound)
    if opening:
        v = int.from_bytes(proof[-RESIDUE:], "big")
        altered["opening plus one"] = proof[:-RESIDUE] + ((v + 1) % N).to_bytes(
            RESIDUE, "big"
        )
        altered["opening not reduced"] = proof[:-RESIDUE] + N.to_bytes(RESIDUE, "big")
    return altered


def spoil_elements(case: dict, draw: str) -> dict[str, dict]:
    """Return changed cases, named by what was done to heads, lanes or keys."""
    stray = pow(2 + expand(f"{draw} stray", 400), N, N2)
    changed = {}

    def change(what: str) -> dict:
        changed[what] = copy.deepcopy(case)
        return changed[what]

    def twist(what: str, field: str, factor: int) -> None:
        new = change(what)
        if field == "heads":
            new["heads"][-1] = new["heads"][-1] * factor % N2
        else:
            new["lanes"][0][-1] = new["lanes"][0][-1] * factor % N2

    for field in ("heads", "lanes"):
        twist(f"{field}: one times 1 + n", field, 1 + N)
        twist(f"{field}: one times a stray n-th residue", field, stray)
        twist(f"{field}: one times g", field, G)
    new = change("heads: one inverted")
    new["heads"][0] = pow(new["heads"][0], -1, N2)
    if len(case["heads"]) > 1:
        change("heads: first two swapped")["heads"][:2] = case["heads"][1::-1]
        new = change("heads: opposite errors in two")
        for k, factor in ((0, 1 + N), (1, 1 - N)):
            new["heads"][k] = new["heads"][k] * factor % N2
        new = change("lanes: opposite errors in two blocks")
        for k, factor in ((0, stray), (1, pow(stray, -1, N2))):
            new["lanes"][k][0] = new["lanes"][k][0] * factor % N2
    if len(case["lanes"][0]) > 1:
        change("lanes: first two swapped")["lanes"][0][:2] = case["lanes"][0][1::-1]
        change("joint key: first two lanes swapped")["joint"][:2] = case["joint"][1::-1]
    change("header: another")["header"] += b"'"
    return changed


def hexadecimal(value):
    """Return integers and bytes as hexadecimal text, through lists and objects."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return f"{value:x}"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: hexadecimal(item) for key, item in value.items()}
    return [hexadecimal(item) for item in value]


def difference(case: dict, base: dict) -> dict:
    """Return what a changed case has else than its base."""
    return {key: value for key, value in case.items() if value != base[key]}


def vectors() -> dict:
    """Return all vectors, each checked by the verifier of this file."""
    blocks = [blocks_case(i, 1 + i % 10) for i in range(20)]
    contexts = [(f"keys {i}", squeeze(i * 3, f"keys {i}".encode())) for i in range(10)]
    keys = [keys_case(name, 1 + i % 5, c) for i, (name, c) in enumerate(contexts)]
    cards = [
        card_case(suite, role, name)
        for suite in ("gated", "hybrid")
        for role, name in (
            ("dsp", "dsp"),
            ("kts", "kts"),
            ("participant", "clinic-7.example_org"),
            ("participant", "a" * 64),
        )
    ]
    if not all(verify_blocks(case) == (True, True) for case in blocks):
        raise SystemExit("an honest proof of blocks does not verify")
    if not all(verify_keys(case) for case in (*keys, *cards)):
        raise SystemExit("an honest proof of knowledge does not verify")
    bad_blocks, bad_keys, bad_cards = [], [], []
    for of in (0, 2, 3, 6, 8):
        case = blocks[of]
        spoilt = {
            what: {**case, "proof": proof}
            for what, proof in spoil_proof(
                case["proof"], len(case["heads"]), True
            ).items()
        } | spoil_elements(case, str(of))
        for what, bad in spoilt.items():
            heads_hold, both_hold = verify_blocks(bad)
            if both_hold:
                raise SystemExit(f"blocks {of}: {what} verifies")
            bad_blocks.append(
                {"of": str(of), "what": what, "heads_hold": heads_hold}
                | difference(bad, case)
            )
    for of in (0, 1, 2, 4):
        case = keys[of]
        spoilt = {
            what: {**case, "proof": proof}
            for what, proof in spoil_proof(
                case["proof"], len(case["public"]), False
            ).items()
        }
        spoilt["another context"] = {**case, "context": case["context"] + b"'"}
        rogue = [case["public"][0] * pow(G, -7, N2) % N2, *case["public"][1:]]
        spoilt["a key times a known power"] = {**case, "public": rogue}
        for what, bad in spoilt.items():
            if verify_keys(bad):
                raise SystemExit(f"keys {of}: {what} verifies")
            bad_keys.append({"of": str(of), "what": what} | difference(bad, case))
    for of, card in enumerate(cards):
        for what, bad in spoil_card(card).items():
            if verify_keys(bad):
                raise SystemExit(f"card {of}: {what} verifies")
            bad_cards.append({"of": str(of), "what": what} | difference(bad, card))
    return {
        "source": "tests/vectors/generate_proofs.py; everything in hexadecimal",
        "profile": "toy-insecure",
        "n": N,
        "g": G,
        "digest": DIGEST,
        "blocks": blocks,
        "blocks_invalid": bad_blocks,
        "knowledge": keys,
        "knowledge_invalid": bad_keys,
        "cards": cards,
        "cards_invalid": bad_cards,
    }


if __name__ == "__main__":
    json.dump(hexadecimal(vectors()), sys.stdout, indent=1)
    sys.stdout.write("\n")
