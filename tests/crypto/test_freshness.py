"""What reused or missing randomness would give away, and that ours is always fresh.

Each attack runs the real code with a scripted source of randomness and computes what
one honest-but-curious server learns from the messages that reach it. The same
computation on honest messages then fails.
"""

from __future__ import annotations

import inspect
from multiprocessing import get_context

import gmpy2
import pytest
from gmpy2 import mpz

from hre_torch.crypto.dcr import encryption, reencryption
from hre_torch.crypto.dcr.encryption import (
    Ciphertext,
    Exponents,
    add,
    encrypt,
    joint_keys,
    rerandomise,
)
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.dcr.reencryption import (
    FirstPhase,
    first_phase,
    head_powers,
    open_block,
    second_phase,
)
from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy

P = load_profile("toy-insecure")
N, SQUARE = P.n, P.n_squared
A, B, K = (Exponents.generate(P) for _ in range(3))
A_PUBLIC, B_PUBLIC, RECIPIENT = A.public(P), B.public(P), K.public(P)
JOINT = joint_keys(A, B_PUBLIC, P)
UPDATE = [314159, 271828, 161803]
OTHER = [141421, 173205, 223606]


class ScriptedEntropy(Entropy):
    """Serves the given exponents; zero stands for a blinding that is left out."""

    def __init__(self, *exponents: int | mpz) -> None:
        self.left = [mpz(exponent) for exponent in exponents]

    def exponent(self, bits: int) -> mpz:
        return self.left.pop(0)


class RecordingEntropy(Entropy):
    """Keeps every exponent that it serves."""

    def __init__(self) -> None:
        self.served: list[mpz] = []

    def exponent(self, bits: int) -> mpz:
        self.served.append(super().exponent(bits))
        return self.served[-1]


def fresh() -> mpz:
    return SYSTEM_ENTROPY.exponent(P.exponent_bits)


def power(base: mpz, exponent: mpz) -> mpz:
    return gmpy2.powmod(base, exponent, SQUARE)


def read(element: mpz) -> int | None:
    """Return `m` if the element is `1 + m n`, which anybody can see; else None."""
    quotient, remainder = divmod((element - 1) % SQUARE, N)
    return None if remainder else int(quotient)


def divide(x: mpz, y: mpz) -> mpz:
    return x * gmpy2.invert(y, SQUARE) % SQUARE


def seal(plaintexts: list[int]) -> Ciphertext:
    return encrypt(plaintexts, JOINT, P)


def begin(block: Ciphertext, entropy: Entropy = SYSTEM_ENTROPY) -> FirstPhase:
    powers = head_powers(block.head, A, len(block.lanes), P)
    return first_phase(block, powers, A_PUBLIC, JOINT, RECIPIENT, P, entropy=entropy)


# What the data service provider (DSP) could learn. It knows rho and listens on the wire
# on which the key transform server (KTS) answers with U and V.


def dsp_strips_rho(block: Ciphertext, sigma: Entropy) -> list[int | None]:
    rho = fresh()
    first = begin(block, ScriptedEntropy(rho, fresh()))
    answer = second_phase(first, B, RECIPIENT, P, entropy=sigma)
    return [
        read(divide(u, power(key, rho)))
        for u, key in zip(answer.U, RECIPIENT, strict=True)
    ]


def test_without_sigma_the_dsp_reads_every_download_off_the_wire():
    assert dsp_strips_rho(seal(UPDATE), ScriptedEntropy(0)) == UPDATE


def test_with_fresh_sigma_the_dsp_reads_nothing_off_the_wire():
    assert dsp_strips_rho(seal(UPDATE), SYSTEM_ENTROPY) == [None] * 3


def dsp_compares_answers(sigmas: list[Entropy]) -> list[int | None]:
    stripped = []
    for plaintexts, sigma in zip((UPDATE, OTHER), sigmas, strict=True):
        rho = fresh()
        first = begin(seal(plaintexts), ScriptedEntropy(rho, fresh()))
        answer = second_phase(first, B, RECIPIENT, P, entropy=sigma)
        stripped.append(
            [divide(u, power(x, rho)) for u, x in zip(answer.U, RECIPIENT, strict=True)]
        )
    return [read(divide(x, y)) for x, y in zip(*stripped, strict=True)]


def test_reused_sigma_shows_the_dsp_the_difference_of_two_blocks_or_releases():
    sigma = fresh()
    learned = dsp_compares_answers([ScriptedEntropy(sigma), ScriptedEntropy(sigma)])
    assert learned == [(x - y) % N for x, y in zip(UPDATE, OTHER, strict=True)]


def test_fresh_sigma_shows_the_dsp_no_difference():
    assert dsp_compares_answers([SYSTEM_ENTROPY] * 2) == [None] * 3


# What the KTS could learn. It knows b, receives X, Y, Z, and has tapped the uploads T.


def kts_unmasks(first: FirstPhase) -> list[mpz]:
    """Return `X_j / Y_j^b_j = (1 + m_j n) pk_j^rho`, the KTS's own next step."""
    return [
        divide(x, power(y, b))
        for x, y, b in zip(first.X, first.Y, B.reveal(), strict=True)
    ]


def test_without_rho_the_kts_reads_every_block():
    first = begin(seal(UPDATE), ScriptedEntropy(0, fresh()))
    assert [read(x) for x in kts_unmasks(first)] == UPDATE


def test_with_fresh_rho_the_kts_reads_no_block():
    assert [read(x) for x in kts_unmasks(begin(seal(UPDATE)))] == [None] * 3


def kts_compares_blocks(entropies: list[Entropy]) -> list[int | None]:
    x, y = (
        kts_unmasks(begin(seal(plaintexts), entropy))
        for plaintexts, entropy in zip((UPDATE, OTHER), entropies, strict=True)
    )
    return [read(divide(p, q)) for p, q in zip(x, y, strict=True)]


def test_reused_rho_shows_the_kts_the_difference_of_two_blocks_or_releases():
    rho = fresh()
    learned = kts_compares_blocks(
        [ScriptedEntropy(rho, fresh()), ScriptedEntropy(rho, fresh())]
    )
    assert learned == [(x - y) % N for x, y in zip(UPDATE, OTHER, strict=True)]


def test_fresh_rho_shows_the_kts_no_difference():
    assert kts_compares_blocks([SYSTEM_ENTROPY] * 2) == [None] * 3


def kts_opens_tapped_upload(taus: list[Entropy]) -> list[int | None]:
    """Two consecutive states differ by one upload, tapped as `T` on its way.

    Without a fresh tau, `Y'_j / Y_j = T'_upload^a_j`, whose power `b_j` is the mask of
    the upload.
    """
    state, upload = seal(OTHER), seal(UPDATE)
    before = begin(state, taus[0])
    after = begin(add(state, upload, P), taus[1])
    masks = [
        power(divide(y_after, y_before), b)
        for y_after, y_before, b in zip(after.Y, before.Y, B.reveal(), strict=True)
    ]
    return [read(divide(t, x)) for t, x in zip(upload.lanes, masks, strict=True)]


def test_without_tau_the_kts_opens_the_upload_between_two_states():
    no_tau = [ScriptedEntropy(fresh(), 0), ScriptedEntropy(fresh(), 0)]
    assert kts_opens_tapped_upload(no_tau) == UPDATE


def test_reused_tau_lets_the_kts_open_the_upload_between_two_states():
    tau = fresh()
    reused = [ScriptedEntropy(fresh(), tau), ScriptedEntropy(fresh(), tau)]
    assert kts_opens_tapped_upload(reused) == UPDATE


def test_fresh_tau_keeps_the_upload_between_two_states_closed():
    assert kts_opens_tapped_upload([SYSTEM_ENTROPY] * 2) == [None] * 3


def test_without_tau_the_kts_opens_a_tapped_state_of_one_upload():
    upload = seal(UPDATE)
    first = begin(upload, ScriptedEntropy(fresh(), 0))
    masks = [power(y, b) for y, b in zip(first.Y, B.reveal(), strict=True)]
    opened = [read(divide(t, x)) for t, x in zip(upload.lanes, masks, strict=True)]
    assert opened == UPDATE


# What anybody on the wire could learn from one exponent used for two uploads.


def test_a_reused_encryption_exponent_shows_everybody_the_difference_of_two_uploads():
    r = fresh()
    x, y = (encrypt(m, JOINT, P, entropy=ScriptedEntropy(r)) for m in (UPDATE, OTHER))
    learned = [read(divide(p, q)) for p, q in zip(x.lanes, y.lanes, strict=True)]
    assert learned == [(p - q) % N for p, q in zip(UPDATE, OTHER, strict=True)]


# Our code does not allow any of it.


def test_no_function_of_the_scheme_takes_a_blinding_or_encryption_exponent():
    takers = {
        name
        for module in (encryption, reencryption)
        for name in module.__all__
        if inspect.isfunction(function := getattr(module, name))
        and {"r", "rho", "sigma", "tau", "exponent", "randomness"}
        & set(inspect.signature(function).parameters)
    }
    # A prover needs r once more, for its proof; suite `paper` has no proofs.
    assert takers <= {"encrypt_with"}
    assert "encrypt_with" not in reencryption.__all__


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_a_block_draws_one_exponent_per_blinding_however_many_lanes_it_has(lanes):
    recorder = RecordingEntropy()
    block = encrypt(UPDATE[:lanes], JOINT, P, entropy=recorder)
    assert len(recorder.served) == 1
    first = begin(block, recorder)
    assert len(recorder.served) == 3
    second_phase(first, B, RECIPIENT, P, entropy=recorder)
    assert len(recorder.served) == 4


def test_every_call_draws_its_own_exponents_even_for_the_same_block():
    recorder = RecordingEntropy()
    block = encrypt(UPDATE, JOINT, P, entropy=recorder)
    powers = head_powers(block.head, A, 3, P)
    answers = set()
    for _ in range(50):
        encrypt(UPDATE, JOINT, P, entropy=recorder)
        rerandomise(block, JOINT, P, entropy=recorder)
        first = first_phase(
            block, powers, A_PUBLIC, JOINT, RECIPIENT, P, entropy=recorder
        )
        second = second_phase(first, B, RECIPIENT, P, entropy=recorder)
        assert open_block(second, K, P) == UPDATE
        answers |= {*first.X, *first.Y, first.Z, *second.U, second.V}
    assert len(recorder.served) == len(set(recorder.served)) == 1 + 50 * 5
    assert len(answers) == 50 * (3 + 3 + 1 + 3 + 1)


def test_the_exponents_drawn_are_the_ones_used():
    rho, tau, sigma = fresh(), fresh(), fresh()
    first = begin(seal(UPDATE), ScriptedEntropy(rho, tau))
    assert power(P.g, rho) == first.Z
    answer = second_phase(first, B, RECIPIENT, P, entropy=ScriptedEntropy(sigma))
    assert power(P.g, rho + sigma) == answer.V


def heads_in_child(count: int) -> list[int]:
    return [int(encryption.encrypt([1], JOINT, P).head) for _ in range(count)]


def test_forked_workers_never_repeat_a_head():
    seal(UPDATE)
    with get_context("fork").Pool(4) as pool:
        heads = [x for part in pool.map(heads_in_child, [50] * 8, 1) for x in part]
    assert len(set(heads)) == 400
