from __future__ import annotations

import dataclasses
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from gmpy2 import mpz
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.crypto.dcr.encryption import check_public_keys
from hre_torch.crypto.dcr.modulus import Parameters, load_profile
from hre_torch.crypto.dcr.reencryption import (
    Ciphertext,
    Exponents,
    FirstPhase,
    SecondPhase,
    add,
    encrypt,
    first_phase,
    head_powers,
    joint_keys,
    open_block,
    rerandomise,
    scale,
    second_phase,
)
from hre_torch.errors import (
    CryptoError,
    DecryptionError,
    InvalidElementError,
    SlotOverflowError,
)


@dataclasses.dataclass(frozen=True)
class Cast:
    """Everybody's keys, and the whole way of a block from upload to download."""

    params: Parameters
    a: Exponents
    b: Exponents
    k: Exponents
    a_public: tuple[mpz, ...]
    joint: tuple[mpz, ...]
    recipient: tuple[mpz, ...]

    @classmethod
    def of(cls, params: Parameters) -> Cast:
        a, b, k = (Exponents.generate(params) for _ in range(3))
        joint = joint_keys(a, b.public(params), params)
        return cls(params, a, b, k, a.public(params), joint, k.public(params))

    def encrypt(self, plaintexts: list[int]) -> Ciphertext:
        return encrypt(plaintexts, self.joint, self.params)

    def begin(self, block: Ciphertext) -> FirstPhase:
        powers = head_powers(block.head, self.a, len(block.lanes), self.params)
        return first_phase(
            block, powers, self.a_public, self.joint, self.recipient, self.params
        )

    def transform(self, block: Ciphertext) -> SecondPhase:
        return second_phase(self.begin(block), self.b, self.recipient, self.params)

    def open(self, block: Ciphertext) -> list[int]:
        return open_block(self.transform(block), self.k, self.params)


TOY = load_profile("toy-insecure")
CAST = Cast.of(TOY)
# One lane: exactly the paper's ciphertext.
SINGLE = Cast.of(dataclasses.replace(TOY, lanes=1))
N = TOY.n
PLAINTEXTS = st.integers(1 - int(N), int(N) - 1)
BLOCKS = st.lists(PLAINTEXTS, min_size=1, max_size=TOY.lanes)


@given(BLOCKS)
def test_a_recipient_opens_what_was_encrypted(plaintexts):
    assert CAST.open(CAST.encrypt(plaintexts)) == [m % N for m in plaintexts]


@given(PLAINTEXTS)
def test_one_lane_is_the_ciphertext_of_the_paper(plaintext):
    block = SINGLE.encrypt([plaintext])
    assert len(block.lanes) == 1
    assert SINGLE.open(block) == [plaintext % N]


@pytest.mark.parametrize("cast", [CAST, SINGLE], ids=["three lanes", "one lane"])
@pytest.mark.parametrize(
    "plaintext", [0, 1, -1, N - 1, 1 - N, N // 2, -(N // 2), N // 2 + 1]
)
def test_plaintexts_at_every_edge_survive(cast, plaintext):
    plaintexts = [plaintext] * cast.params.lanes
    assert cast.open(cast.encrypt(plaintexts)) == [plaintext % N] * cast.params.lanes


@given(st.lists(st.tuples(PLAINTEXTS, PLAINTEXTS), min_size=1, max_size=3))
def test_a_product_of_blocks_opens_to_the_sums(pairs):
    x, y = ([int(m) for m in row] for row in zip(*pairs, strict=True))
    total = add(CAST.encrypt(x), CAST.encrypt(y), TOY)
    assert CAST.open(total) == [(p + q) % N for p, q in pairs]


@given(BLOCKS, st.integers(-(2**20), 2**20))
def test_a_scaled_block_opens_to_the_multiples(plaintexts, factor):
    scaled = scale(CAST.encrypt(plaintexts), factor, TOY)
    assert CAST.open(scaled) == [m * factor % N for m in plaintexts]


@given(BLOCKS)
def test_a_rerandomised_block_shares_no_element_and_opens_the_same(plaintexts):
    block = CAST.encrypt(plaintexts)
    other = rerandomise(block, CAST.joint, TOY)
    assert not {block.head, *block.lanes} & {other.head, *other.lanes}
    assert CAST.open(other) == [m % N for m in plaintexts]


def test_a_block_scaled_by_zero_can_be_rerandomised_and_opens_to_zeros():
    nothing = scale(CAST.encrypt([5, 6, 7]), 0, TOY)
    assert nothing == Ciphertext(mpz(1), (mpz(1),) * 3)
    assert CAST.open(rerandomise(nothing, CAST.joint, TOY)) == [0, 0, 0]


@given(st.lists(BLOCKS, min_size=1, max_size=5))
def test_a_sum_of_many_uploads_opens_to_the_sum(uploads):
    width = min(map(len, uploads))
    total = CAST.encrypt(uploads[0][:width])
    for upload in uploads[1:]:
        total = add(total, CAST.encrypt(upload[:width]), TOY)
    expected = [sum(column) % N for column in zip(*uploads, strict=False)]
    assert CAST.open(total) == expected[:width]


def test_elements_are_those_of_the_formulas():
    block = CAST.encrypt([5, 6, 7])
    first = CAST.begin(block)
    second = second_phase(first, CAST.b, CAST.recipient, TOY)
    square = TOY.n_squared
    for lane, (a, b, k) in enumerate(
        zip(CAST.a.reveal(), CAST.b.reveal(), CAST.k.reveal(), strict=True)
    ):
        # T_j and X_j open to the plaintext under the joint and the combined key.
        opened = (1 + (5 + lane) * N) % square
        assert block.lanes[lane] * pow(block.head, -a * b, square) % square == opened
        unmasked = first.X[lane] * pow(first.Y[lane], -b, square) % square
        assert unmasked * pow(first.Z, -k, square) % square == opened
        assert second.U[lane] * pow(second.V, -k, square) % square == opened


def test_both_servers_compute_the_same_joint_keys():
    other = joint_keys(CAST.b, CAST.a_public, TOY)
    assert other == CAST.joint
    assert len(set(other)) == TOY.lanes


def test_another_participant_cannot_open_the_download():
    second = CAST.transform(CAST.encrypt([1, 2, 3]))
    with pytest.raises(DecryptionError, match="does not open under this key"):
        open_block(second, Exponents.generate(TOY), TOY)


def test_a_block_transformed_for_another_recipient_does_not_open():
    block = CAST.encrypt([1, 2, 3])
    other = Exponents.generate(TOY).public(TOY)
    second = second_phase(CAST.begin(block), CAST.b, other, TOY)
    with pytest.raises(DecryptionError):
        open_block(second, CAST.k, TOY)


def test_the_head_powers_of_another_block_spoil_the_opening():
    block, other = CAST.encrypt([1]), CAST.encrypt([1])
    powers = head_powers(other.head, CAST.a, 1, TOY)
    first = first_phase(block, powers, CAST.a_public, CAST.joint, CAST.recipient, TOY)
    second = second_phase(first, CAST.b, CAST.recipient, TOY)
    with pytest.raises(DecryptionError):
        open_block(second, CAST.k, TOY)


def test_exchanged_lanes_do_not_open():
    second = CAST.transform(CAST.encrypt([1, 2, 3]))
    swapped = SecondPhase(U=second.U[::-1], V=second.V)
    with pytest.raises(DecryptionError):
        open_block(swapped, CAST.k, TOY)


@pytest.mark.parametrize("plaintext", [N, -N, N + 1, N * N])
def test_a_plaintext_larger_than_the_modulus_is_refused(plaintext):
    with pytest.raises(SlotOverflowError, match="-n < m < n"):
        CAST.encrypt([0, plaintext])


@pytest.mark.parametrize("count", [0, 4])
def test_a_block_without_lanes_or_with_too_many_is_refused(count):
    with pytest.raises(CryptoError, match=f"a block of {count} lanes, expected 1 to 3"):
        CAST.encrypt([1] * count)
    with pytest.raises(CryptoError, match="expected 1 to 3"):
        head_powers(CAST.joint[0], CAST.a, count, TOY)


def test_keys_made_for_another_number_of_lanes_are_refused():
    block = CAST.encrypt([1])
    with pytest.raises(CryptoError, match="2 keys for the 3 lanes"):
        encrypt([1], CAST.joint[:2], TOY)
    with pytest.raises(CryptoError, match="1 keys for the 3 lanes"):
        open_block(CAST.transform(block), SINGLE.k, TOY)


def test_blocks_of_different_width_do_not_add():
    with pytest.raises(CryptoError, match="1 lanes cannot be added to one of 2"):
        add(CAST.encrypt([1]), CAST.encrypt([1, 2]), TOY)


def test_phases_refuse_parts_of_different_width():
    block = CAST.encrypt([1, 2])
    powers = head_powers(block.head, CAST.a, 1, TOY)
    with pytest.raises(CryptoError, match="1 head powers for a block of 2 lanes"):
        first_phase(block, powers, CAST.a_public, CAST.joint, CAST.recipient, TOY)
    first = CAST.begin(block)
    narrow = FirstPhase(X=first.X, Y=first.Y[:1], Z=first.Z)
    with pytest.raises(CryptoError, match="2 X and 1 Y"):
        second_phase(narrow, CAST.b, CAST.recipient, TOY)


@pytest.mark.parametrize("values", [[], [3], [2, 5], [0], [-2], [2, 4, 2]])
def test_exponents_that_are_odd_missing_repeated_or_not_positive_are_refused(values):
    with pytest.raises(CryptoError):
        Exponents(values)


def test_secret_exponents_are_even_and_differ_between_lanes():
    values = Exponents.generate(TOY).reveal()
    assert len(set(values)) == TOY.lanes
    assert all(value % 2 == 0 and 0 < value < 2**64 for value in values)


def test_neither_repr_nor_exception_shows_a_secret_exponent():
    secret = 1234567890
    assert repr(Exponents([secret])) == "Exponents(<1 secret lanes>)"
    for values in ([secret, secret], [secret + 1], [-secret]):
        with pytest.raises(CryptoError) as caught:
            Exponents(values)
        assert "123456789" not in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [CAST.recipient[:2], CAST.recipient[:2] + CAST.recipient[:1], CAST.recipient * 2],
    ids=["too few", "repeated", "too many"],
)
def test_public_keys_that_are_too_few_or_repeated_are_refused(keys):
    with pytest.raises(InvalidElementError, match="participant p0 has"):
        check_public_keys(keys, TOY, whose="participant p0")
    with pytest.raises(InvalidElementError, match="the other server has"):
        joint_keys(CAST.a, keys, TOY)


def test_every_step_runs_in_a_worker_process():
    fork = get_context("fork")
    with ProcessPoolExecutor(1, mp_context=fork) as pool:
        block = pool.submit(encrypt, [1, 2, 3], CAST.joint, TOY).result()
        powers = pool.submit(head_powers, block.head, CAST.a, 3, TOY).result()
        first = pool.submit(
            first_phase, block, powers, CAST.a_public, CAST.joint, CAST.recipient, TOY
        ).result()
        second = pool.submit(second_phase, first, CAST.b, CAST.recipient, TOY).result()
        assert pool.submit(open_block, second, CAST.k, TOY).result() == [1, 2, 3]


@pytest.mark.parametrize(
    "value", [CAST.k, CAST.encrypt([1]), CAST.begin(CAST.encrypt([1])), TOY]
)
def test_arguments_survive_the_way_to_a_worker_process(value):
    copy = pickle.loads(pickle.dumps(value))
    if isinstance(value, Exponents):
        assert copy.reveal() == value.reveal()
    else:
        assert copy == value


def test_the_reference_profile_opens_all_sixteen_lanes():
    params = load_profile("demo3072")
    cast = Cast.of(params)
    edge = int(params.n) // 2
    plaintexts = [0, 1, -1, edge, -edge, *range(2**3000, 2**3000 + 11)]
    block = add(cast.encrypt(plaintexts), cast.encrypt(plaintexts[::-1]), params)
    totals = zip(plaintexts, plaintexts[::-1], strict=True)
    assert cast.open(block) == [sum(pair) % params.n for pair in totals]
