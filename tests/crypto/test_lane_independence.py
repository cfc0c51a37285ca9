"""What keys or exponents shared between lanes would give away, and that ours differ.

The lanes of a block share one randomness, so everything rests on the independence of
their keys. Each attack uses keys that our own generator refuses to make and computes
what one honest-but-curious party learns; on honest keys the same computation fails.
"""

from __future__ import annotations

import gmpy2
import pytest
from gmpy2 import mpz

from hre_torch.crypto.dcr.encryption import (
    Ciphertext,
    Exponents,
    check_public_keys,
    encrypt,
    joint_keys,
)
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.dcr.reencryption import first_phase, head_powers, second_phase
from hre_torch.errors import CryptoError, InvalidElementError

P = load_profile("toy-insecure")
N, SQUARE = P.n, P.n_squared
A, B, K = (Exponents.generate(P) for _ in range(3))
A_PUBLIC, B_PUBLIC, RECIPIENT = A.public(P), B.public(P), K.public(P)
JOINT = joint_keys(A, B_PUBLIC, P)
UPDATE = [314159, 271828, 161803]


def power(base: mpz, exponent: mpz) -> mpz:
    return gmpy2.powmod(base, exponent, SQUARE)


def divide(x: mpz, y: mpz) -> mpz:
    return x * gmpy2.invert(y, SQUARE) % SQUARE


def read(element: mpz) -> int | None:
    """Return `m` if the element is `1 + m n`, which anybody can see; else None."""
    quotient, remainder = divmod((element - 1) % SQUARE, N)
    return None if remainder else int(quotient)


def test_one_joint_key_in_two_lanes_shows_everybody_the_difference_of_the_lanes():
    block = encrypt(UPDATE, (JOINT[0], JOINT[0], JOINT[2]), P)
    difference = (UPDATE[0] - UPDATE[1]) % N
    assert read(divide(block.lanes[0], block.lanes[1])) == difference
    honest = encrypt(UPDATE, JOINT, P)
    assert read(divide(honest.lanes[0], honest.lanes[1])) is None


def test_one_recipient_key_in_two_lanes_shows_everybody_the_difference_of_the_lanes():
    keys = (RECIPIENT[0], RECIPIENT[0], RECIPIENT[2])
    block = encrypt(UPDATE, JOINT, P)
    powers = head_powers(block.head, A, 3, P)
    first = first_phase(block, powers, A_PUBLIC, JOINT, keys, P)
    answer = second_phase(first, B, keys, P)
    difference = (UPDATE[0] - UPDATE[1]) % N
    assert read(divide(answer.U[0], answer.U[1])) == difference


def cancel_masks(block: Ciphertext, own: tuple[mpz, ...], lane: int) -> int | None:
    """Return `own_lane m_0 - own_0 m_lane mod n` if the masks of both lanes cancel.

    With one `a`, `PK_j = g^(a b_j)`. Whoever knows the `b_j` raises `T_0` to `b_lane`
    and `T_lane` to `b_0`: both masks become `g^(r a b_0 b_lane)`, and their quotient is
    `1 + (b_lane m_0 - b_0 m_lane) n`.
    """
    first, second = block.lanes[0], block.lanes[lane]
    return read(divide(power(first, own[lane]), power(second, own[0])))


def open_from_one_known_lane(
    block: Ciphertext, own: tuple[mpz, ...], known: int
) -> list[int]:
    """Return all plaintexts of a tapped upload, given the first."""
    opened = [known]
    for lane in range(1, len(block.lanes)):
        relation = cancel_masks(block, own, lane)
        assert relation is not None
        opened.append(int((own[lane] * known - relation) * gmpy2.invert(own[0], N) % N))
    return opened


def test_one_dsp_exponent_for_all_lanes_ties_the_lanes_together_for_the_kts():
    a, b = A.reveal()[0], B.reveal()
    block = encrypt(UPDATE, [power(key, a) for key in B_PUBLIC], P)
    for lane in (1, 2):
        expected = (b[lane] * UPDATE[0] - b[0] * UPDATE[lane]) % N
        assert cancel_masks(block, b, lane) == expected
    assert open_from_one_known_lane(block, b, UPDATE[0]) == UPDATE


def test_one_dsp_exponent_lets_the_kts_open_short_plaintexts_knowing_nothing():
    a, b = A.reveal()[0], B.reveal()
    block = encrypt(UPDATE, [power(key, a) for key in B_PUBLIC], P)
    relation = cancel_masks(block, b, 1)
    # Short plaintexts leave b_1 m_0 - b_0 m_1 shorter than n, so it holds over the
    # integers, and modulo b_0 it gives m_0.
    signed = relation - N if relation > N // 2 else relation
    common = gmpy2.gcd(b[0], b[1])
    modulus = b[0] // common
    known = signed // common * gmpy2.invert(b[1] // common, modulus) % modulus
    assert open_from_one_known_lane(block, b, int(known)) == UPDATE


def test_one_kts_exponent_for_all_lanes_ties_the_lanes_together_for_the_dsp():
    a, b = A.reveal(), B.reveal()[0]
    block = encrypt(UPDATE, [power(key, b) for key in A_PUBLIC], P)
    assert open_from_one_known_lane(block, a, UPDATE[0]) == UPDATE


def test_independent_exponents_of_both_servers_keep_the_lanes_apart():
    block = encrypt(UPDATE, JOINT, P)
    for own in (A.reveal(), B.reveal()):
        assert cancel_masks(block, own, 1) is None
        assert cancel_masks(block, own, 2) is None


def test_generated_exponents_of_both_servers_differ_between_lanes():
    for _ in range(20):
        a, b = Exponents.generate(P), Exponents.generate(P)
        assert len({*a.reveal(), *b.reveal()}) == 2 * P.lanes


def test_an_exponent_shared_between_lanes_is_refused_by_its_owner():
    with pytest.raises(CryptoError, match="used for two lanes"):
        Exponents([A.reveal()[0]] * 3)


def test_a_key_shared_between_lanes_is_refused_by_everybody_else():
    shared = (A_PUBLIC[0],) * 3
    with pytest.raises(InvalidElementError, match="1 differ, expected 3 different"):
        joint_keys(B, shared, P)
    with pytest.raises(InvalidElementError, match="1 differ, expected 3 different"):
        check_public_keys(shared, P, whose="the DSP")
