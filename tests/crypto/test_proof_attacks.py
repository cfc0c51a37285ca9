"""Attacks A4, A6, A7 and A12 on one upload, by somebody who runs any code it likes.

Each test shows first, where it is not plain, that the attack would work on a server
that does not verify.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from gmpy2 import invert, mpz, powmod

from hre_torch.crypto.dcr.encryption import Ciphertext
from hre_torch.crypto.dcr.transcript import Transcript
from hre_torch.crypto.entropy import SYSTEM_ENTROPY

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_a4_a_head_with_a_plaintext_part_is_refused_by_both_servers(seal_upload, seed):
    honest = seal_upload(7)
    params, target = honest.params, seed % 3
    blocks = list(honest.blocks)
    head = blocks[target].head * (1 + (seed + 1) * params.n) % params.n_squared
    blocks[target] = replace(blocks[target], head=head)
    forged = honest.forged(blocks)
    assert forged.refused_by() == {"KTS", "DSP"}


def test_a4_opposite_errors_in_two_heads_do_not_cancel(upload):
    params = upload.params
    blocks = list(upload.blocks)
    for target, error in ((0, 1 + params.n), (1, 1 - params.n)):
        head = blocks[target].head * error % params.n_squared
        blocks[target] = replace(blocks[target], head=head)
    assert upload.forged(blocks).refused_by() == {"KTS", "DSP"}


def test_a4_would_pass_if_the_challenge_were_known_in_advance(
    upload, bind_header, monkeypatch
):
    params, n_squared = upload.params, upload.params.n_squared
    blocks = list(upload.blocks)
    blocks[0] = replace(blocks[0], head=blocks[0].head * (1 + params.n) % n_squared)
    header = bind_header(blocks, b"mallory", params)
    known = mpz(123456789)
    transcript = Transcript(b"hre_torch proof of blocks 1", params, header)
    weight = transcript.weights(b"blocks", 3)[0]
    with monkeypatch.context() as patch:
        patch.setattr(Transcript, "challenge", lambda self, commitments: known)
        forged = upload.forged(blocks)
        # C2 takes up what the false head adds: (1 + n)^(-ch x_0).
        width = params.element_bytes
        commitment = mpz.from_bytes(forged.proof[width : 2 * width], "big")
        commitment = commitment * (1 - known * weight * params.n) % n_squared
        proof = bytearray(forged.proof)
        proof[width : 2 * width] = commitment.to_bytes(width, "big")
        forged = replace(forged, proof=bytes(proof))
        forged.check_heads()
    assert forged.refused_by() == {"KTS", "DSP"}


@pytest.mark.parametrize("seed", SEEDS)
def test_a6_an_upload_that_cancels_another_cannot_be_proved(
    seal_upload, bind_header, encrypt_block, seed
):
    victim = seal_upload(7)
    params, n_squared = victim.params, victim.params.n_squared
    own = [SYSTEM_ENTROPY.exponent(params.exponent_bits) for _ in victim.blocks]
    blocks = []
    for theirs, r in zip(victim.blocks, own, strict=True):
        ours = encrypt_block([0] * len(theirs.lanes), r, victim.joint, params)
        blocks.append(
            Ciphertext(
                invert(theirs.head, n_squared) * ours.head % n_squared,
                tuple(
                    invert(x, n_squared) * y % n_squared
                    for x, y in zip(theirs.lanes, ours.lanes, strict=True)
                ),
            )
        )
    # The attack itself works: inside a sum, the victim's share is gone.
    product = victim.heads[0] * blocks[0].head % n_squared
    assert product == powmod(params.g, own[0], n_squared)

    header = bind_header(blocks, b"mallory", params)
    replayed = replace(victim, blocks=blocks, header=header)
    copied = replace(victim, blocks=blocks)
    forged = victim.forged(blocks, randomness=own)
    for attempt in (replayed, copied, forged):
        assert attempt.refused_by() == {"KTS", "DSP"}


@pytest.mark.parametrize("seed", SEEDS)
def test_a7_a_lane_off_the_key_relation_is_refused_by_the_data_service(
    seal_upload, seed
):
    honest = seal_upload(7)
    params, n_squared = honest.params, honest.params.n_squared
    stray = powmod(SYSTEM_ENTROPY.unit(params.n), params.n, n_squared)
    blocks = list(honest.blocks)
    lanes = list(blocks[seed % 2].lanes)
    lanes[seed % 3] = lanes[seed % 3] * stray % n_squared
    blocks[seed % 2] = replace(blocks[seed % 2], lanes=tuple(lanes))
    forged = honest.forged(blocks)
    # The heads are fine, and they are all that the KTS ever gets.
    assert forged.refused_by() == {"DSP"}


def test_a7_opposite_errors_in_two_lanes_or_two_blocks_do_not_cancel(upload):
    params, n_squared = upload.params, upload.params.n_squared
    stray = powmod(SYSTEM_ENTROPY.unit(params.n), params.n, n_squared)
    for places in (((0, 0), (0, 1)), ((0, 0), (1, 0)), ((0, 0), (2, 0))):
        rows = [list(block.lanes) for block in upload.blocks]
        for (k, j), factor in zip(
            places, (stray, invert(stray, n_squared)), strict=True
        ):
            rows[k][j] = rows[k][j] * factor % n_squared
        blocks = [
            replace(block, lanes=tuple(row))
            for block, row in zip(upload.blocks, rows, strict=True)
        ]
        forged = upload.forged(blocks)
        assert forged.refused_by() == {"DSP"}


def test_a_short_block_cannot_lend_its_exponent_to_the_full_ones(
    upload, bind_header, encrypt_block, monkeypatch
):
    # The lanes that the last block lacks use another exponent than their head says.
    # With one equation for all heads the error could move from group to group.
    params, joint = upload.params, upload.joint
    shifted = encrypt_block(
        upload.plaintexts[0], upload.randomness[0] + 1, joint, params
    )
    lanes = (upload.blocks[0].lanes[0], *shifted.lanes[1:])
    blocks = [replace(upload.blocks[0], lanes=lanes), *upload.blocks[1:]]
    header = bind_header(blocks, b"mallory", params)
    forged = upload.forged(blocks)

    width, start = params.element_bytes, 3 * params.element_bytes
    commitments = [
        mpz.from_bytes(forged.proof[k * width : (k + 1) * width], "big")
        for k in range(3)
    ]
    transcript = Transcript(b"hre_torch proof of blocks 1", params, header)
    weights = transcript.weights(b"blocks", 3)
    error = transcript.challenge(commitments) * weights[0]
    proof = bytearray(forged.proof)
    responses = []
    for k, change in enumerate((error, -error)):
        place = slice(start + 57 * k, start + 57 * (k + 1))
        responses.append(mpz.from_bytes(bytes(proof[place]), "big") + change)
        proof[place] = responses[-1].to_bytes(57, "big")
    forged = replace(forged, proof=bytes(proof))

    product = mpz(1)
    for head, weight in zip(forged.heads, weights, strict=True):
        product *= powmod(head, weight, params.n_squared)
    answer = powmod(product, transcript.challenge(commitments), params.n_squared)
    answer = commitments[1] * commitments[2] * answer % params.n_squared
    assert powmod(params.g, sum(responses), params.n_squared) == answer
    with monkeypatch.context() as patch:
        patch.setattr("hre_torch.crypto.dcr.proofs.check_powers", lambda *_, **__: None)
        forged.check_blocks()
    assert forged.refused_by() == {"KTS", "DSP"}


def test_a12_a_sign_passes_and_is_left_to_whoever_opens(upload):
    n_squared = upload.params.n_squared
    negative = replace(upload.blocks[0], head=n_squared - upload.heads[0])
    replace(upload, blocks=[negative, *upload.blocks[1:]]).check_blocks()
