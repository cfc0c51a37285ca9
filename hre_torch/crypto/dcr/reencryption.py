"""Homomorphic re-encryption in lanes: the arithmetic of suite `paper`.

The data service provider (DSP) holds `a_j`, the key transform server (KTS) `b_j`, a
recipient `k_j`, one exponent per lane `j = 1..L`; `A_j = g^a_j`, `pk_j = g^k_j`, and
updates are encrypted under `PK_j = g^(a_j b_j)`, all modulo `n^2`:

    encrypt        T' = g^r                           T_j = (1 + m_j n) PK_j^r
    first phase    X_j = T_j pk_j^rho PK_j^tau        DSP: rho, tau fresh
                   Y_j = (T' g^tau)^a_j               Z = g^rho
    second phase   U_j = X_j / Y_j^b_j pk_j^sigma     KTS: sigma fresh
                   V   = Z g^sigma
    open           m_j = ((U_j / V^k_j) - 1) / n      recipient

`sigma` keeps the DSP, which knows `rho`, from reading the answer off the wire; `rho`
keeps the KTS from opening the block, `tau` from comparing consecutive states. None of
them is an argument of any function: each call draws its own.

The scheme is F. Tang, W. Wu, J. Liu, H. Wang, M. Xian, "Privacy-Preserving Distributed
Deep Learning via Homomorphic Re-Encryption", Electronics 8(4):411, 2019, on W. Ding,
Z. Yan, R. Deng, Information Sciences 409-410, 2017. Both phases are our reconstruction,
because the paper's own text of them could not be had. `L = 1` is the paper's
ciphertext. It protects against semi-honest servers that do not collude, no more.

Every function is a pure function of one block with picklable arguments, so that worker
processes can map over blocks. Elements are checked where they are decoded, not here.
Keys and encryption live one file down and are exported from here as well, so that this
module is the whole scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gmpy2
from gmpy2 import mpz

from hre_torch.crypto.dcr.encryption import (
    Ciphertext,
    Exponents,
    add,
    encrypt,
    joint_keys,
    of_lanes,
    rerandomise,
    scale,
)
from hre_torch.crypto.dcr.fixed_base import SERVER_WINDOW, multiply_powers, shared_table
from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.dcr.powers import power_modulo_square, powers_of_one_base
from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.errors import CryptoError, DecryptionError

__all__ = [
    "Ciphertext",
    "Exponents",
    "FirstPhase",
    "SecondPhase",
    "add",
    "encrypt",
    "first_phase",
    "head_powers",
    "joint_keys",
    "open_block",
    "rerandomise",
    "scale",
    "second_phase",
]


@dataclass(frozen=True, slots=True)
class FirstPhase:
    """A block on its way from the DSP to the KTS: `X_j`, `Y_j` per lane, and `Z`."""

    X: tuple[mpz, ...]
    Y: tuple[mpz, ...]
    Z: mpz


@dataclass(frozen=True, slots=True)
class SecondPhase:
    """A block under the recipient's keys: `U_j` per lane, and `V`."""

    U: tuple[mpz, ...]
    V: mpz


def head_powers(
    head: mpz, a: Exponents, lanes: int, params: Parameters
) -> tuple[mpz, ...]:
    """Return `T'^a_j` for the first `lanes` lanes.

    They depend on the release only and carry no mask, so the DSP keeps them and shows
    them to nobody.

    Args:
        head: `T'`.
        a: The DSP's exponents.
        lanes: `l`, lanes of the block, `1 <= l <= L`.
        params: Fixes the group.

    Raises:
        CryptoError: `lanes` is out of range.
    """
    exponents = of_lanes(a.reveal(), lanes, params)
    return tuple(powers_of_one_base(head, exponents, params.n))


def first_phase(
    ciphertext: Ciphertext,
    head_powers: Sequence[mpz],
    a_public: Sequence[mpz],
    joint: Sequence[mpz],
    recipient: Sequence[mpz],
    params: Parameters,
    *,
    entropy: Entropy = SYSTEM_ENTROPY,
) -> FirstPhase:
    """Return `X_j = T_j pk_j^rho PK_j^tau`, `Y_j = T'^a_j A_j^tau` and `Z = g^rho`.

    `rho` and `tau` are drawn here, once per call: fresh for every block, recipient and
    release, shared by the lanes of this block only.

    Args:
        ciphertext: Block of `l` lanes.
        head_powers: `T'^a_j`, shape (l,), of this very block.
        a_public: `A_j = g^a_j`, shape (L,).
        joint: `PK_j`, shape (L,).
        recipient: `pk_j`, shape (L,).
        params: Fixes the group and the exponents' width.
        entropy: Source of `rho` and `tau`.

    Raises:
        CryptoError: Block and head powers have different numbers of lanes.
    """
    lanes = len(ciphertext.lanes)
    if len(head_powers) != lanes:
        raise CryptoError(
            f"{len(head_powers)} head powers for a block of {lanes} lanes; use those "
            "of this very block"
        )
    shared = shared_table(params.g, params)
    to_joint = [shared_table(x, params) for x in of_lanes(joint, lanes, params)]
    to_server = [
        shared_table(x, params, SERVER_WINDOW)
        for x in of_lanes(a_public, lanes, params)
    ]
    keys = of_lanes(recipient, lanes, params)
    rho = entropy.exponent(params.exponent_bits)
    tau = entropy.exponent(params.exponent_bits)
    tau_positions = to_joint[0].positions(tau)
    tau_server_positions = to_server[0].positions(tau)
    return FirstPhase(
        X=tuple(
            masking.multiply(blinded, tau_positions)
            for blinded, masking in zip(
                multiply_powers(ciphertext.lanes, keys, rho, params),
                to_joint,
                strict=True,
            )
        ),
        Y=tuple(
            masking.multiply(power, tau_server_positions)
            for power, masking in zip(head_powers, to_server, strict=True)
        ),
        Z=shared.power(rho),
    )


def second_phase(
    first: FirstPhase,
    b: Exponents,
    recipient: Sequence[mpz],
    params: Parameters,
    *,
    entropy: Entropy = SYSTEM_ENTROPY,
) -> SecondPhase:
    """Return `U_j = X_j / Y_j^b_j pk_j^sigma` and `V = Z g^sigma`.

    `sigma` is drawn here, once per call.

    Args:
        first: The DSP's block of `l` lanes.
        b: The KTS's exponents.
        recipient: `pk_j`, shape (L,), of the recipient that the DSP blinded for.
        params: Fixes the group and the exponents' width.
        entropy: Source of `sigma`.

    Raises:
        CryptoError: `X` and `Y` have different numbers of lanes, or too many.
    """
    lanes = len(first.X)
    if len(first.Y) != lanes:
        raise CryptoError(
            f"a first phase with {lanes} X and {len(first.Y)} Y, expected one of each "
            "per lane; ask the DSP again"
        )
    shared = shared_table(params.g, params)
    keys = of_lanes(recipient, lanes, params)
    sigma = entropy.exponent(params.exponent_bits)
    opened = []
    for x, y, exponent in zip(
        first.X, first.Y, of_lanes(b.reveal(), lanes, params), strict=True
    ):
        mask = power_modulo_square(y, exponent, params.n)
        opened.append(x * gmpy2.invert(mask, params.n_squared) % params.n_squared)
    return SecondPhase(
        U=multiply_powers(opened, keys, sigma, params),
        V=shared.multiply(first.Z, shared.positions(sigma)),
    )


def open_block(second: SecondPhase, k: Exponents, params: Parameters) -> list[int]:
    """Return the plaintexts `m_j` as residues `0 <= m_j < n`.

    With `W = V^k_j`, honest elements obey `U_j = W (1 + m_j n)`: they agree modulo
    `n`, and `m_j = ((U_j - W) / n) / W mod n`.

    Args:
        second: The KTS's block of `l` lanes.
        k: The recipient's exponents.
        params: Fixes the group.

    Raises:
        DecryptionError: The block does not open under these exponents.
        CryptoError: No lanes, or more than `L`.
    """
    n = params.n
    exponents = of_lanes(k.reveal(), len(second.U), params)
    masks = powers_of_one_base(second.V, exponents, params.n)
    plaintexts = []
    for element, mask in zip(second.U, masks, strict=True):
        quotient, remainder = gmpy2.f_divmod(element - mask, n)
        if remainder:
            raise DecryptionError("a downloaded block does not open under this key")
        plaintexts.append(int(quotient * gmpy2.invert(mask, n) % n))
    return plaintexts
