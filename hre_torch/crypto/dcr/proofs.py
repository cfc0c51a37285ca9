"""The proof that comes with every upload: all its blocks are well formed.

A participant could upload elements outside the key relation. A head `(1 + n) g^r`
shifts every decryption by the joint key, the inverse of somebody's head cancels that
upload inside a sum, a stray factor makes the sum undecryptable for ever. So an upload
proves, for all its blocks `k` and lanes `j` at once,

    T'_k = g^r_k,    T_kj = (1 + m_kj n) PK_j^r_k,    and knowledge of all r_k, m_kj.

With 128-bit weights `x_k`, `y_j` and a 128-bit challenge `ch` from the transcript:

    prover    R = sum_k x_k r_k  over the integers     m* = sum_kj x_k y_j m_kj mod n
              D = prod_j PK_j^y_j          w, u fresh and secret, u uniform modulo n
              C1 = (1 + u n) D^w,  C2 = g^w          ch answers C1, C2
              z = w + ch R  over the integers        v = u + ch m* mod n
    both      g^z = C2 (prod_k T'_k^x_k)^ch                           both sides squared
    DSP also  (1 + v n) D^z = C1 (prod_j (prod_k T_kj^x_k)^y_j)^ch    both sides squared

The KTS gets the heads `T'` only and checks the first equation, the DSP both.

The last block may have fewer lanes and then another `D`. Blocks of equally many lanes
form a *group* with its own `R`, `w`, `C2`, `z` and its own first equation; the second
equation is one, with the product over the groups of `D^w` and `D^z`.

* Weights keep the errors of two blocks or lanes from cancelling. Where `T'_k` holds a
  factor `1 + e_k n`, the first equation asks for `ch sum_k x_k e_k = 0`, up to what
  `C2` holds; all this is fixed before it is hashed, so a false head passes with
  probability about `2^-127` for each hash that the sender tries.
* `z` hides `R` up to a distance of `2^-128`, `v` hides `m*` perfectly. A `w` or `u`
  used twice reveals them; both are drawn anew for every proof.
* A sign passes, here as in `schnorr`; whoever opens normalises it.
* It is no range proof: any `m_kj` passes.

References:
    M. Bellare, J. Garay, T. Rabin, "Fast batch verification for modular exponentiation
    and digital signatures", EUROCRYPT 1998 (small weights). See also `schnorr`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from gmpy2 import mpz, powmod

from hre_torch.crypto.dcr.encryption import Ciphertext
from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.dcr.powers import product_of_powers, products_of_powers
from hre_torch.crypto.dcr.schnorr import (
    check_exponents,
    check_powers,
    check_squares,
    generator_power,
    inner_product,
    mask_bits,
    response_bound,
)
from hre_torch.crypto.dcr.transcript import (
    Transcript,
    decode_proof,
    encode_proof,
    proof_length,
)
from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.errors import ProofError

__all__ = ["proof_bytes", "prove", "verify_blocks", "verify_heads"]

_LABEL: Final = b"hre_torch proof of blocks 1"


class _Group(NamedTuple):
    """Consecutive blocks of equally many lanes."""

    blocks: slice
    lanes: int


def prove(
    plaintexts: Sequence[Sequence[int | mpz]],
    randomness: Sequence[mpz],
    joint: Sequence[mpz],
    params: Parameters,
    header: bytes,
    *,
    entropy: Entropy = SYSTEM_ENTROPY,
) -> bytes:
    """Return the proof for blocks that encrypt `plaintexts` with `randomness`.

    Args:
        plaintexts: `m_kj` of every block, integers taken modulo `n`; `L` in every block
            but the last, which has 1 to `L`.
        randomness: `r_k` of every block, `0 <= r_k < 2^exponent_bits`.
        joint: `PK_j`, shape (L,).
        params: Group, lanes and exponent width.
        header: Canonical bytes of all that the proof is bound to. The caller's duty: it
            holds a hash of all `T_kj` and one of all `T'_k`, and binds the joint key,
            the sender's identity and the sequence number. Without the hashes anybody
            can make blocks that fit a finished proof.
        entropy: Source of the masks.

    Returns:
        `C1`, every group's `C2`, every group's `z`, then `v`; in all
        `proof_bytes(number of plaintexts, params)` bytes.

    Raises:
        ProofError: Blocks, lanes, keys and exponents do not fit each other, or an
            exponent is out of range.
    """
    n = params.n
    statement = _statement_of([len(row) for row in plaintexts], joint, params, header)
    check_exponents(randomness, statement.n_blocks, params)
    hidden = entropy.below(n)
    masks = [
        entropy.bits(mask_bits(statement.n_blocks, params)) for _ in statement.groups
    ]
    blinding = (1 + hidden * n) * statement.joint_power(masks, joint)
    commitments = [blinding % params.n_squared]
    commitments += [generator_power(mask, params) for mask in masks]

    challenge = statement.transcript.challenge(commitments)
    x, y = statement.block_weights, statement.lane_weights
    responses = [
        mask + challenge * inner_product(x[blocks], randomness[blocks])
        for mask, (blocks, _) in zip(masks, statement.groups, strict=True)
    ]
    # Lanes first, so that only one product per block carries both weights.
    rows = [inner_product(y[: len(row)], row) for row in plaintexts]
    opening = (hidden + challenge * inner_product(x, rows)) % n
    return encode_proof(commitments, [*responses, opening], statement.bounds, params)


def verify_heads(
    heads: Sequence[mpz],
    proof: bytes,
    n_plaintexts: int,
    params: Parameters,
    header: bytes,
) -> None:
    """Raise unless the proof holds for the heads `T'`: the check of the KTS.

    Args:
        heads: `T'_k` of every block, decoded as nontrivial.
        proof: From `prove` over the same header.
        n_plaintexts: Lanes over all blocks, as the task fixes them. Decides how many
            blocks there are and whether the last one is short.
        params: Group, lanes and exponent width.
        header: As the prover had it; the caller has compared the hash of all `T'_k` in
            it with the heads.

    Raises:
        ProofError: The proof is malformed, made for other heads or another header, or
            does not hold.
    """
    statement = _Statement(n_plaintexts, params, header)
    statement.check_heads(heads, *statement.decode(proof))


def verify_blocks(
    blocks: Sequence[Ciphertext],
    proof: bytes,
    joint: Sequence[mpz],
    params: Parameters,
    header: bytes,
) -> None:
    """Raise unless the proof holds for heads and lanes: the check of the DSP.

    Args:
        blocks: Decoded ciphertexts; `L` lanes in all but the last.
        proof: From `prove` over the same header.
        joint: `PK_j`, shape (L,).
        params: Group, lanes and exponent width.
        header: As the prover had it; the caller has compared the hashes of all `T_kj`
            and of all `T'_k` in it with the blocks.

    Raises:
        ProofError: As for `verify_heads`, or the lanes are not what the proof says.
    """
    lanes = [block.lanes for block in blocks]
    statement = _statement_of([len(row) for row in lanes], joint, params, header)
    commitments, integers = statement.decode(proof)
    statement.check_heads([block.head for block in blocks], commitments, integers)
    statement.check_lanes(lanes, joint, commitments, integers)


def proof_bytes(n_plaintexts: int, params: Parameters) -> int:
    """Return the length in bytes of the proof of so many plaintexts."""
    groups, bounds = _shape(n_plaintexts, params)
    return proof_length(1 + len(groups), bounds, params)


class _Statement:
    """What prover and verifier agree on before the first commitment.

    The number of plaintexts fixes groups and bounds, the header the weights. In a
    decoded proof `commitments` are `C1` and the `C2`, `integers` the `z` and `v`.
    """

    def __init__(self, n_plaintexts: int, params: Parameters, header: bytes) -> None:
        self.params = params
        self.groups, self.bounds = _shape(n_plaintexts, params)
        self.n_blocks = int(self.groups[-1].blocks.stop)
        self.transcript = Transcript(_LABEL, params, header)
        self.block_weights = self.transcript.weights(b"blocks", self.n_blocks)
        self.lane_weights = self.transcript.weights(b"lanes", params.lanes)

    def decode(self, proof: bytes) -> tuple[list[mpz], list[mpz]]:
        """Return the commitments and the integers of a proof of this shape."""
        return decode_proof(proof, 1 + len(self.groups), self.bounds, self.params)

    def check_heads(
        self, heads: Sequence[mpz], commitments: Sequence[mpz], integers: Sequence[mpz]
    ) -> None:
        """Raise unless the first equation holds for every group."""
        count = self.n_blocks
        if len(heads) != count:
            raise ProofError(f"{len(heads)} heads for a proof about {count} blocks")
        challenge = self.transcript.challenge(commitments)
        for (blocks, _), commitment, response in zip(
            self.groups, commitments[1:], integers[:-1], strict=True
        ):
            check_powers(
                heads[blocks],
                self.block_weights[blocks],
                commitment,
                challenge,
                response,
                self.params,
                what="an upload's heads",
            )

    def check_lanes(
        self,
        lanes: Sequence[Sequence[mpz]],
        joint: Sequence[mpz],
        commitments: Sequence[mpz],
        integers: Sequence[mpz],
    ) -> None:
        """Raise unless the second equation holds."""
        n, n_squared, width = self.params.n, self.params.n_squared, self.params.lanes
        # A lane that the last block lacks counts as 1, which no weight changes.
        rows = [(*row, *[mpz(1)] * (width - len(row))) for row in lanes]
        columns = products_of_powers(rows, self.block_weights, n_squared)
        product = product_of_powers(columns, self.lane_weights, n_squared)
        challenge = self.transcript.challenge(commitments)
        answer = commitments[0] * powmod(product, challenge, n_squared)
        left = (1 + integers[-1] * n) * self.joint_power(integers[:-1], joint)
        check_squares(left, answer, self.params, what="an upload's lanes")

    def joint_power(self, exponents: Sequence[mpz], joint: Sequence[mpz]) -> mpz:
        """Return the product of `D^e` over the groups, one exponent for each.

        The lanes of the short block are the first lanes of a full one, so its `D` comes
        first and is completed to the other.
        """
        n_squared = self.params.n_squared
        power, key, done = mpz(1), mpz(1), 0
        pairs = zip(reversed(self.groups), reversed(exponents), strict=True)
        for (_, lanes), exponent in pairs:
            new = slice(done, lanes)
            key *= product_of_powers(joint[new], self.lane_weights[new], n_squared)
            power = power * powmod(key, exponent, n_squared) % n_squared
            done = lanes
        return power


def _shape(n_plaintexts: int, params: Parameters) -> tuple[list[_Group], list[mpz]]:
    """Return the groups of a proof and the bounds of its integers.

    Raises:
        ProofError: There is no plaintext, or there are too many blocks.
    """
    n_full, rest = divmod(n_plaintexts, params.lanes)
    bound = response_bound(n_full + bool(rest), params)
    groups = []
    if n_full:
        groups.append(_Group(slice(0, n_full), params.lanes))
    if rest:
        groups.append(_Group(slice(n_full, n_full + 1), rest))
    return groups, [bound] * len(groups) + [params.n]


def _statement_of(
    lanes: Sequence[int], joint: Sequence[mpz], params: Parameters, header: bytes
) -> _Statement:
    """Return the statement about blocks of so many lanes each.

    Raises:
        ProofError: A block other than the last is not full, or there is not one joint
            key per lane.
    """
    statement = _Statement(sum(lanes), params, header)
    full = [params.lanes] * (statement.n_blocks - 1)
    if list(lanes[:-1]) != full or len(joint) != params.lanes:
        raise ProofError(
            f"{len(lanes)} blocks of {sum(lanes)} lanes under {len(joint)} joint keys; "
            f"expected {params.lanes} of each, fewer lanes in the last block only"
        )
    return statement
