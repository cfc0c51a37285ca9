"""Our proofs against an independent plain-Python prover and verifier.

`tests/vectors/generate_proofs.py` made the vectors and says how to make them again.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gmpy2 import mpz

from hre_torch.crypto.dcr.encryption import Ciphertext
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.dcr.proofs import prove, verify_blocks, verify_heads
from hre_torch.crypto.dcr.schnorr import prove_knowledge, verify_knowledge
from hre_torch.crypto.entropy import Entropy
from hre_torch.errors import ProofError
from hre_torch.protocol.roster import KeyCard
from hre_torch.protocol.suites.gated import card_context

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "proofs.json").read_text()
)
PARAMS = load_profile(VECTORS["profile"])


class Scripted(Entropy):
    """Hands out the vector's masks in the order in which a prover asks for them."""

    def __init__(self, hidden, masks):
        self._hidden = hidden
        self._masks = iter(masks)

    def below(self, bound):
        return self._hidden

    def bits(self, count):
        return next(self._masks)


def integers(texts):
    return [mpz(text, 16) for text in texts]


def rows(texts):
    return [integers(row) for row in texts]


def blocks_of(vector):
    return [
        Ciphertext(mpz(head, 16), tuple(integers(lanes)))
        for head, lanes in zip(vector["heads"], vector["lanes"], strict=True)
    ]


def changed(kind):
    """Return the invalid vectors completed by the valid ones that they spoil."""
    return [
        pytest.param(
            {**VECTORS[kind][int(vector["of"], 16)], **vector},
            id=f"{kind} {vector['of']}: {vector['what']}",
        )
        for vector in VECTORS[f"{kind}_invalid"]
    ]


def test_the_vectors_belong_to_the_shipped_toy_profile():
    assert mpz(VECTORS["n"], 16) == PARAMS.n
    assert mpz(VECTORS["g"], 16) == PARAMS.g
    assert VECTORS["digest"] == PARAMS.digest.hex()


def test_there_are_at_least_thirty_valid_and_150_invalid_vectors():
    assert len(VECTORS["blocks"]) + len(VECTORS["knowledge"]) >= 30
    assert len(VECTORS["blocks_invalid"]) + len(VECTORS["knowledge_invalid"]) >= 150


@pytest.mark.parametrize("vector", VECTORS["blocks"])
def test_with_the_same_masks_our_prover_gives_the_same_octets(vector):
    entropy = Scripted(mpz(vector["u"], 16), integers(vector["w"]))
    proof = prove(
        rows(vector["plaintexts"]),
        integers(vector["randomness"]),
        integers(vector["joint"]),
        PARAMS,
        bytes.fromhex(vector["header"]),
        entropy=entropy,
    )
    assert proof.hex() == vector["proof"]


@pytest.mark.parametrize("vector", VECTORS["blocks"])
def test_both_servers_accept_an_independent_proof_of_blocks(vector):
    proof, header = bytes.fromhex(vector["proof"]), bytes.fromhex(vector["header"])
    blocks = blocks_of(vector)
    size = sum(len(block.lanes) for block in blocks)
    verify_heads([block.head for block in blocks], proof, size, PARAMS, header)
    verify_blocks(blocks, proof, integers(vector["joint"]), PARAMS, header)


@pytest.mark.parametrize("vector", changed("blocks"))
def test_a_spoilt_proof_of_blocks_is_refused_by_the_servers_that_can_see_it(vector):
    proof, header = bytes.fromhex(vector["proof"]), bytes.fromhex(vector["header"])
    blocks = blocks_of(vector)
    heads = [block.head for block in blocks]
    size = sum(len(block.lanes) for block in blocks)
    if vector["heads_hold"]:
        verify_heads(heads, proof, size, PARAMS, header)
    else:
        with pytest.raises(ProofError):
            verify_heads(heads, proof, size, PARAMS, header)
    with pytest.raises(ProofError):
        verify_blocks(blocks, proof, integers(vector["joint"]), PARAMS, header)


@pytest.mark.parametrize("vector", VECTORS["knowledge"])
def test_with_the_same_mask_our_key_proof_gives_the_same_octets(vector):
    proof = prove_knowledge(
        integers(vector["secrets"]),
        integers(vector["public"]),
        PARAMS,
        bytes.fromhex(vector["context"]),
        entropy=Scripted(None, integers([vector["w"]])),
    )
    assert proof.hex() == vector["proof"]


@pytest.mark.parametrize("vector", VECTORS["knowledge"])
def test_an_independent_proof_of_knowledge_is_accepted(vector):
    context = bytes.fromhex(vector["context"])
    proof = bytes.fromhex(vector["proof"])
    verify_knowledge(integers(vector["public"]), proof, PARAMS, context)


@pytest.mark.parametrize("vector", changed("knowledge"))
def test_a_spoilt_proof_of_knowledge_is_refused(vector):
    context = bytes.fromhex(vector["context"])
    proof = bytes.fromhex(vector["proof"])
    with pytest.raises(ProofError):
        verify_knowledge(integers(vector["public"]), proof, PARAMS, context)


def card_of(vector):
    return KeyCard(
        vector["role"],
        vector["name"],
        vector["suite"],
        bytes.fromhex(vector["signing_key"]),
    )


@pytest.mark.parametrize("vector", VECTORS["cards"])
def test_an_independent_proof_of_a_key_card_is_accepted(vector):
    context = card_context(card_of(vector), PARAMS)
    assert context.hex() == vector["context"]
    proof = bytes.fromhex(vector["proof"])
    verify_knowledge(integers(vector["public"]), proof, PARAMS, context)


@pytest.mark.parametrize("vector", changed("cards"))
def test_a_key_card_that_claims_something_else_proves_nothing(vector):
    context = card_context(card_of(vector), PARAMS)
    assert context.hex() == vector["context"]
    proof = bytes.fromhex(vector["proof"])
    with pytest.raises(ProofError):
        verify_knowledge(integers(vector["public"]), proof, PARAMS, context)
