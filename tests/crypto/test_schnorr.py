from __future__ import annotations

import pytest
from gmpy2 import invert, mpz, powmod
from hypothesis import given, settings
from hypothesis import strategies as st

from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.dcr.schnorr import (
    knowledge_bytes,
    mask_bits,
    prove_knowledge,
    response_bound,
    verify_knowledge,
)
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.errors import ProofError

PARAMS = load_profile("toy-insecure")
CARD = b"toy-insecure, dsp.example, data service"
SEEDS = range(20)


def powers(secrets, params=PARAMS):
    return [powmod(params.g, secret, params.n_squared) for secret in secrets]


def fresh(count=3, params=PARAMS):
    return [SYSTEM_ENTROPY.even_exponent(params.exponent_bits) for _ in range(count)]


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, (1 << 64) - 1).map(mpz), min_size=1, max_size=20),
    st.binary(max_size=40),
)
def test_whoever_knows_the_exponents_can_prove_it(secrets, context):
    public = powers(secrets)
    proof = prove_knowledge(secrets, public, PARAMS, context)
    assert len(proof) == knowledge_bytes(len(secrets), PARAMS)
    verify_knowledge(public, proof, PARAMS, context)


def test_a_card_of_real_size_is_proved():
    params = load_profile("rsa2048")
    secrets = fresh(params.lanes, params)
    public = powers(secrets, params)
    proof = prove_knowledge(secrets, public, params, CARD)
    verify_knowledge(public, proof, params, CARD)
    with pytest.raises(ProofError, match="does not hold"):
        verify_knowledge(public, proof, params, CARD + b"'")


def test_a_mask_is_128_bits_longer_than_what_it_hides():
    params = load_profile("rsa2048")
    # The figure of the design: 128 + 256 + ceil(log2 n_blocks) + 256.
    assert mask_bits(55, params) == 128 + 256 + 6 + 256
    hidden = ((1 << 128) - 1) * 55 * ((1 << 128) - 1) * ((1 << 256) - 1)
    assert hidden.bit_length() + 128 <= mask_bits(55, params)
    assert response_bound(55, params) == 1 << (mask_bits(55, params) + 1)


def test_every_proof_draws_a_fresh_mask():
    secrets = fresh()
    public = powers(secrets)
    first = prove_knowledge(secrets, public, PARAMS, CARD)
    assert first != prove_knowledge(secrets, public, PARAMS, CARD)


def test_a_mask_used_twice_would_give_the_secret_away(monkeypatch):
    # Why `w` is an argument of nothing: two answers to two challenges.
    secret = fresh(1)
    public = powers(secret)
    mask = SYSTEM_ENTROPY.bits(mask_bits(1, PARAMS))

    class Stuck(type(SYSTEM_ENTROPY)):
        def bits(self, count):
            return mask

    proofs = [
        prove_knowledge(secret, public, PARAMS, card, entropy=Stuck())
        for card in (b"one", b"two")
    ]
    width = PARAMS.element_bytes
    responses = [mpz.from_bytes(proof[width:], "big") for proof in proofs]
    difference = responses[0] - responses[1]
    assert difference != 0
    assert difference % secret[0] == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a10_a_key_made_from_the_other_servers_key_cannot_be_proved(seed):
    theirs = fresh()
    x = fresh()
    rogue = [
        g_x * invert(h, PARAMS.n_squared) % PARAMS.n_squared
        for g_x, h in zip(powers(x), powers(theirs), strict=True)
    ]
    # The attack itself works: the joint key would be g^x.
    product = [a * b for a, b in zip(rogue, powers(theirs), strict=True)]
    assert [p % PARAMS.n_squared for p in product] == powers(x)

    replayed = prove_knowledge(theirs, powers(theirs), PARAMS, CARD)
    forged = prove_knowledge(x, rogue, PARAMS, CARD)
    for proof in (replayed, forged):
        with pytest.raises(ProofError, match="does not hold"):
            verify_knowledge(rogue, proof, PARAMS, CARD)


@pytest.mark.parametrize("lane", range(3))
def test_one_rogue_lane_among_honest_ones_is_refused(lane):
    secrets = fresh()
    public = powers(secrets)
    public[lane] = public[lane] * powers(fresh(1))[0] % PARAMS.n_squared
    proof = prove_knowledge(secrets, public, PARAMS, CARD)
    with pytest.raises(ProofError, match="does not hold"):
        verify_knowledge(public, proof, PARAMS, CARD)


def test_two_rogue_lanes_do_not_cancel():
    secrets = fresh()
    public = powers(secrets)
    stray = powers(fresh(1))[0]
    public[0] = public[0] * stray % PARAMS.n_squared
    public[1] = public[1] * invert(stray, PARAMS.n_squared) % PARAMS.n_squared
    proof = prove_knowledge(secrets, public, PARAMS, CARD)
    with pytest.raises(ProofError, match="does not hold"):
        verify_knowledge(public, proof, PARAMS, CARD)


def test_a_key_with_a_plaintext_part_is_refused():
    secrets = fresh()
    public = powers(secrets)
    public[1] = public[1] * (1 + PARAMS.n) % PARAMS.n_squared
    proof = prove_knowledge(secrets, public, PARAMS, CARD)
    with pytest.raises(ProofError, match="does not hold"):
        verify_knowledge(public, proof, PARAMS, CARD)


def test_a_proof_copied_to_another_identity_is_refused():
    secrets = fresh()
    public = powers(secrets)
    proof = prove_knowledge(secrets, public, PARAMS, CARD)
    with pytest.raises(ProofError, match="does not hold"):
        verify_knowledge(public, proof, PARAMS, b"toy-insecure, mallory, data service")


def test_lanes_in_another_order_are_refused():
    secrets = fresh()
    public = powers(secrets)
    proof = prove_knowledge(secrets, public, PARAMS, CARD)
    with pytest.raises(ProofError, match="does not hold"):
        verify_knowledge(public[::-1], proof, PARAMS, CARD)


def test_an_octet_moved_between_context_and_keys_is_refused():
    secrets = fresh()
    public = powers(secrets)
    encoded = public[0].to_bytes(PARAMS.element_bytes, "big")
    proof = prove_knowledge(secrets[1:], public[1:], PARAMS, CARD + encoded)
    with pytest.raises(ProofError, match="does not hold"):
        verify_knowledge(public[1:], proof, PARAMS, CARD)


@pytest.mark.parametrize("position", range(0, 200, 7))
def test_a_flipped_byte_anywhere_is_refused(position):
    secrets = fresh()
    public = powers(secrets)
    proof = bytearray(prove_knowledge(secrets, public, PARAMS, CARD))
    proof[position % len(proof)] ^= 1 << position % 8
    with pytest.raises(ProofError):
        verify_knowledge(public, bytes(proof), PARAMS, CARD)


def test_a_proof_of_another_length_is_refused():
    secrets = fresh()
    public = powers(secrets)
    proof = prove_knowledge(secrets, public, PARAMS, CARD)
    for damaged in (b"", proof[:-1], proof + b"\0"):
        with pytest.raises(ProofError, match="expected exactly"):
            verify_knowledge(public, damaged, PARAMS, CARD)


def test_a_proof_about_no_keys_is_refused():
    with pytest.raises(ProofError, match="about 0 powers"):
        prove_knowledge([], [], PARAMS, CARD)
    with pytest.raises(ProofError, match="about 0 powers"):
        verify_knowledge([], b"", PARAMS, CARD)


def test_the_prover_refuses_an_exponent_that_is_too_wide_without_showing_it():
    wide = mpz(1) << PARAMS.exponent_bits
    with pytest.raises(ProofError, match="secret exponent 0 of 1") as caught:
        prove_knowledge([wide], powers([wide]), PARAMS, CARD)
    assert str(wide) not in str(caught.value)


def test_the_prover_refuses_more_keys_than_exponents():
    secrets = fresh()
    with pytest.raises(ProofError, match="2 secret exponents for 3 powers"):
        prove_knowledge(secrets[:2], powers(secrets), PARAMS, CARD)
