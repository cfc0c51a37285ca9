from __future__ import annotations

from dataclasses import replace

import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st

from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.dcr.proofs import proof_bytes, prove, verify_blocks, verify_heads
from hre_torch.crypto.entropy import Entropy
from hre_torch.errors import ProofError


@pytest.mark.parametrize("n_plaintexts", range(1, 11))
def test_both_servers_accept_an_honest_upload_of_any_size(seal_upload, n_plaintexts):
    assert seal_upload(n_plaintexts).refused_by() == set()


@settings(max_examples=40)
@given(st.data())
def test_any_plaintexts_under_any_header_are_provable(upload, encrypt_block, data):
    params, joint = upload.params, upload.joint
    n = int(params.n)
    edges = st.sampled_from([0, 1, -1, n // 2, -(n // 2), n - 1, n, n + 1])
    values = data.draw(
        st.lists(st.one_of(edges, st.integers(-n, n)), min_size=1, max_size=8)
    )
    exponents = st.integers(0, (1 << params.exponent_bits) - 1).map(mpz)
    rows = [values[i : i + params.lanes] for i in range(0, len(values), params.lanes)]
    randomness = data.draw(st.lists(exponents, min_size=len(rows), max_size=len(rows)))
    header = data.draw(st.binary(max_size=40))
    blocks = [
        encrypt_block(row, r, joint, params)
        for row, r in zip(rows, randomness, strict=True)
    ]
    proof = prove(rows, randomness, joint, params, header)
    assert len(proof) == proof_bytes(len(values), params)
    verify_heads([b.head for b in blocks], proof, len(values), params, header)
    verify_blocks(blocks, proof, joint, params, header)


def test_an_upload_at_real_size_is_proved_within_four_kilobytes(seal_upload):
    upload = seal_upload(20, profile="rsa2048")
    upload.check_heads()
    upload.check_blocks()
    assert len(upload.proof) < 4096
    assert replace(upload, header=b"another").refused_by() == {"KTS", "DSP"}


def test_a_proof_is_two_elements_and_two_integers_and_a_short_block_adds_one_each():
    params = load_profile("toy-insecure")
    element, residue = params.element_bytes, params.modulus_bytes
    # 128 challenge + 128 weight + 64 exponent + 128 hiding + 2 for 3 or 4 blocks + 1.
    response = (451 + 7) // 8
    assert proof_bytes(9, params) == 2 * element + response + residue
    assert proof_bytes(10, params) == 3 * element + 2 * response + residue


def test_every_proof_draws_fresh_masks(upload):
    args = (upload.plaintexts, upload.randomness, upload.joint, upload.params)
    first = prove(*args, upload.header)
    second = prove(*args, upload.header)
    width = upload.params.element_bytes
    assert all(
        first[start : start + width] != second[start : start + width]
        for start in range(0, 3 * width, width)
    )


def test_a_prover_draws_from_the_entropy_it_is_given(upload):
    class Counting(Entropy):
        drawn = 0

        def octets(self, count):
            self.drawn += count
            return super().octets(count)

    entropy = Counting()
    prove(
        upload.plaintexts,
        upload.randomness,
        upload.joint,
        upload.params,
        upload.header,
        entropy=entropy,
    )
    # One uniform residue (64 bytes or more) and two masks of 450 bits (57 bytes each).
    assert entropy.drawn >= 64 + 2 * 57


def test_a_wrong_plaintext_in_the_proof_is_refused_by_the_data_service(upload):
    plaintexts = [list(row) for row in upload.plaintexts]
    plaintexts[1][2] += 1
    proof = prove(
        plaintexts, upload.randomness, upload.joint, upload.params, upload.header
    )
    assert replace(upload, proof=proof).refused_by() == {"DSP"}


def test_a_proof_under_another_joint_key_is_refused_by_the_data_service(upload):
    joint = (upload.joint[1], upload.joint[0], upload.joint[2])
    assert replace(upload, joint=joint).refused_by() == {"DSP"}


def test_a_proof_replayed_under_another_header_is_refused_by_both_servers(
    upload, bind_header
):
    header = bind_header(upload.blocks, b"mallory", upload.params)
    replayed = replace(upload, header=header)
    assert replayed.refused_by() == {"KTS", "DSP"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda proof: b"",
        lambda proof: proof[:-1],
        lambda proof: proof[1:],
        lambda proof: proof + b"\0",
        lambda proof: b"\0" + proof,
    ],
)
def test_a_proof_of_another_length_is_refused(upload, damage):
    with pytest.raises(ProofError, match="expected exactly 562"):
        replace(upload, proof=damage(upload.proof)).check_blocks()


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        (lambda params: mpz(0), "is zero"),
        (lambda params: params.n_squared, "n\\^2 or more"),
        (lambda params: params.n_squared + 1, "n\\^2 or more"),
        (lambda params: params.n, "shares a factor"),
    ],
)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_commitment_that_is_no_unit_is_refused(upload, index, value, flaw):
    width = upload.params.element_bytes
    proof = bytearray(upload.proof)
    proof[index * width : (index + 1) * width] = value(upload.params).to_bytes(
        width, "big"
    )
    with pytest.raises(ProofError, match=flaw):
        replace(upload, proof=bytes(proof)).check_blocks()


def test_a_response_at_its_bound_is_refused(upload):
    width = upload.params.element_bytes
    proof = bytearray(upload.proof)
    # 451 bits in 57 bytes: the bound itself still fits.
    proof[3 * width : 3 * width + 57] = (1 << 451).to_bytes(57, "big")
    with pytest.raises(ProofError, match="response 0 of a proof reaches its bound"):
        replace(upload, proof=bytes(proof)).check_blocks()


def test_an_opening_of_n_or_more_is_refused(upload):
    width = upload.params.modulus_bytes
    opening = mpz.from_bytes(upload.proof[-width:], "big")
    if opening + upload.params.n < 1 << 8 * width:
        opening += upload.params.n
    else:
        opening = upload.params.n
    proof = upload.proof[:-width] + opening.to_bytes(width, "big")
    with pytest.raises(ProofError, match="response 2 of a proof reaches its bound"):
        replace(upload, proof=proof).check_blocks()


def test_a_missing_head_is_refused(upload):
    with pytest.raises(ProofError, match="2 heads for a proof about 3 blocks"):
        verify_heads(upload.heads[:2], upload.proof, 7, upload.params, upload.header)


@pytest.mark.parametrize("n_plaintexts", [0, -1, -7, 3 << 25])
def test_an_impossible_number_of_plaintexts_is_refused(upload, n_plaintexts):
    with pytest.raises(ProofError, match="powers, expected 1 to"):
        verify_heads(
            upload.heads, upload.proof, n_plaintexts, upload.params, upload.header
        )


def test_no_blocks_at_all_are_refused(upload):
    with pytest.raises(ProofError, match="about 0 powers"):
        verify_blocks([], upload.proof, upload.joint, upload.params, upload.header)


def test_a_short_block_in_the_middle_is_refused(upload):
    blocks = [upload.blocks[2], upload.blocks[0], upload.blocks[1]]
    with pytest.raises(ProofError, match="fewer lanes in the last block only"):
        verify_blocks(blocks, upload.proof, upload.joint, upload.params, upload.header)


def test_a_joint_key_with_a_lane_missing_is_refused(upload):
    with pytest.raises(ProofError, match="7 lanes under 2 joint keys"):
        verify_blocks(
            upload.blocks,
            upload.proof,
            upload.joint[:2],
            upload.params,
            upload.header,
        )


def test_the_prover_refuses_an_exponent_that_is_out_of_range_without_showing_it(upload):
    wide = mpz(1) << upload.params.exponent_bits
    for r in (wide, mpz(-1)):
        with pytest.raises(ProofError, match="secret exponent 2 of 3") as caught:
            prove(
                upload.plaintexts,
                [*upload.randomness[:2], r],
                upload.joint,
                upload.params,
                upload.header,
            )
        assert str(wide) not in str(caught.value)


def test_the_prover_refuses_more_blocks_than_exponents(upload):
    with pytest.raises(ProofError, match="2 secret exponents for 3 powers"):
        prove(
            upload.plaintexts,
            upload.randomness[:2],
            upload.joint,
            upload.params,
            upload.header,
        )
