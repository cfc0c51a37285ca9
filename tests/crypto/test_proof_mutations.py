"""Random damage to honest uploads: nothing damaged passes, nothing honest fails.

Each mutation is drawn by a seeded generator. Where elements change, the attacker
chooses whether the header keeps the hashes of the honest elements (a caller would
notice, but the algebra must refuse as well) or holds those of the changed ones.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from gmpy2 import invert, mpz, powmod

from hre_torch.crypto.dcr.transcript import decode_elements, encode_elements
from hre_torch.errors import InvalidElementError, ProofError

SIZES = (1, 3, 4, 6, 7, 8, 10)


def flip_a_byte(data, draw):
    damaged = bytearray(data)
    damaged[draw.randrange(len(data))] ^= draw.randrange(1, 256)
    return bytes(damaged)


def change_an_element(upload, change, draw, *, heads_only=False):
    """Return the blocks with one head or lane replaced by `change(element)`."""
    blocks = list(upload.blocks)
    k = draw.randrange(len(blocks))
    if heads_only or draw.random() < 0.5:
        blocks[k] = replace(blocks[k], head=change(blocks[k].head))
    else:
        lanes = list(blocks[k].lanes)
        j = draw.randrange(len(lanes))
        lanes[j] = change(lanes[j])
        blocks[k] = replace(blocks[k], lanes=tuple(lanes))
    return blocks


def multiply(factor_of):
    """Return a mutation that multiplies one element by `factor_of(params, draw)`."""

    def mutate(upload, other, draw, bind):
        params = upload.params
        factor = factor_of(params, draw)
        blocks = change_an_element(
            upload, lambda x: x * factor % params.n_squared, draw
        )
        return rebind(upload, blocks, draw, bind)

    return mutate


def rebind(upload, blocks, draw, bind):
    """Return the upload with other blocks, under the old header or a fitting one."""
    if draw.random() < 0.5:
        return replace(upload, blocks=blocks)
    header = bind(blocks, upload.identity, upload.params)
    return replace(upload, blocks=blocks, header=header)


def flipped_proof(upload, other, draw, bind):
    return replace(upload, proof=flip_a_byte(upload.proof, draw))


def flipped_header(upload, other, draw, bind):
    return replace(upload, header=flip_a_byte(upload.header, draw))


def flipped_element(upload, other, draw, bind):
    def change(element):
        data = flip_a_byte(encode_elements([element], upload.params), draw)
        return decode_elements(data, 1, upload.params, what="element")[0]

    return rebind(upload, change_an_element(upload, change, draw), draw, bind)


def inverted_element(upload, other, draw, bind):
    def change(element):
        return invert(element, upload.params.n_squared)

    return rebind(upload, change_an_element(upload, change, draw), draw, bind)


def negated_head_bound(upload, other, draw, bind):
    # With the old header a sign passes by design, with its own it does not.
    blocks = change_an_element(
        upload, lambda x: upload.params.n_squared - x, draw, heads_only=True
    )
    header = bind(blocks, upload.identity, upload.params)
    return replace(upload, blocks=blocks, header=header)


def swapped_lanes(upload, other, draw, bind):
    blocks = list(upload.blocks)
    wide = [k for k, block in enumerate(blocks) if len(block.lanes) > 1]
    if not wide:
        return other_identity(upload, other, draw, bind)
    k = draw.choice(wide)
    lanes = list(blocks[k].lanes)
    i, j = draw.sample(range(len(lanes)), 2)
    lanes[i], lanes[j] = lanes[j], lanes[i]
    blocks[k] = replace(blocks[k], lanes=tuple(lanes))
    return rebind(upload, blocks, draw, bind)


def swapped_blocks(upload, other, draw, bind):
    blocks = list(upload.blocks)
    full = [k for k, block in enumerate(blocks) if len(block.lanes) == 3]
    if len(full) < 2:
        return other_identity(upload, other, draw, bind)
    i, j = draw.sample(full, 2)
    if draw.random() < 0.5:
        blocks[i], blocks[j] = blocks[j], blocks[i]
    else:
        one, two = blocks[i], blocks[j]
        blocks[i], blocks[j] = replace(one, head=two.head), replace(two, head=one.head)
    return rebind(upload, blocks, draw, bind)


def foreign_block(upload, other, draw, bind):
    blocks = list(upload.blocks)
    # The first block of both, unless it is the short one of either.
    theirs = other.blocks[0]
    if len(theirs.lanes) != len(blocks[0].lanes):
        theirs = replace(blocks[0], head=theirs.head)
    blocks[0] = theirs
    return rebind(upload, blocks, draw, bind)


def missing_lane(upload, other, draw, bind):
    last = upload.blocks[-1]
    if len(last.lanes) == 1:
        return foreign_block(upload, other, draw, bind)
    blocks = [*upload.blocks[:-1], replace(last, lanes=last.lanes[:-1])]
    return rebind(upload, blocks, draw, bind)


def other_identity(upload, other, draw, bind):
    header = bind(upload.blocks, b"mallory", upload.params)
    return replace(upload, header=header)


def other_proof(upload, other, draw, bind):
    return replace(upload, proof=other.proof)


def spliced_proof(upload, other, draw, bind):
    if len(upload.proof) != len(other.proof):
        return other_proof(upload, other, draw, bind)
    width = upload.params.element_bytes
    cut = draw.choice([width, 2 * width, len(upload.proof) - width // 2])
    return replace(upload, proof=upload.proof[:cut] + other.proof[cut:])


def shifted_integer(upload, other, draw, bind):
    """Add 1 to `z` or `v`, or -1: what one more power of `g` or `1 + n` would fit."""
    width = upload.params.modulus_bytes
    stop = draw.choice([len(upload.proof), len(upload.proof) - width])
    value = int.from_bytes(upload.proof[:stop], "big") + draw.choice([-1, 1])
    return replace(upload, proof=value.to_bytes(stop, "big") + upload.proof[stop:])


def changed_commitment(upload, other, draw, bind):
    params, width = upload.params, upload.params.element_bytes
    k = draw.randrange(2)
    place = slice(k * width, (k + 1) * width)
    element = mpz.from_bytes(upload.proof[place], "big")
    factor = draw.choice([params.n_squared - 1, 1 + params.n, params.g])
    proof = bytearray(upload.proof)
    proof[place] = (element * factor % params.n_squared).to_bytes(width, "big")
    return replace(upload, proof=bytes(proof))


MUTATIONS = (
    # The proof's own bytes are most of what can be flipped, so they come up most.
    flipped_proof,
    flipped_proof,
    flipped_proof,
    flipped_header,
    flipped_element,
    flipped_element,
    inverted_element,
    negated_head_bound,
    swapped_lanes,
    swapped_blocks,
    foreign_block,
    missing_lane,
    other_identity,
    other_proof,
    spliced_proof,
    shifted_integer,
    changed_commitment,
    multiply(lambda params, draw: 1 + draw.choice([1, -1, 2, 12345]) * params.n),
    multiply(
        lambda params, draw: powmod(params.g, draw.randrange(1, 99), params.n_squared)
    ),
    # A power of n that is no power of g: off the key relation.
    multiply(
        lambda params, draw: powmod(
            draw.randrange(2, 1 << 64), params.n, params.n_squared
        )
    ),
)


def is_refused(upload):
    try:
        upload.check_blocks()
    except ProofError:
        return True
    return False


@pytest.fixture(scope="module")
def pool(seal_upload):
    return [seal_upload(size) for size in SIZES * 2]


@pytest.mark.parametrize(
    "count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)]
)
def test_no_mutation_of_an_honest_upload_is_accepted(pool, bind_header, count):
    draw = random.Random(count)
    accepted = []
    for trial in range(count):
        upload, other = draw.sample(pool, 2)
        mutate = MUTATIONS[trial % len(MUTATIONS)]
        try:
            mutated = mutate(upload, other, draw, bind_header)
        except InvalidElementError:
            continue  # The decoder has refused it already.
        if not is_refused(mutated):
            accepted.append((trial, mutate.__name__))
    assert accepted == []


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_honest_upload_is_refused(seal_upload, count):
    refused = [
        trial
        for trial in range(count)
        if seal_upload(SIZES[trial % len(SIZES)]).refused_by()
    ]
    assert refused == []


def test_every_mutation_of_the_heads_or_the_header_is_refused_by_the_heads_alone(
    pool, bind_header
):
    draw = random.Random(1)
    for mutate in (flipped_header, negated_head_bound, other_identity, other_proof):
        for _ in range(20):
            upload, other = draw.sample(pool, 2)
            mutated = mutate(upload, other, draw, bind_header)
            with pytest.raises(ProofError):
                mutated.check_heads()
