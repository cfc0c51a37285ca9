"""Key cards that prove what they hold, and the additive joint key made of them.

A server that published `h_a = g^x / h_b` after seeing the other's `h_b` would own the
joint key `g^x` alone. So every card carries a proof of knowledge of its exponents, and
nobody accepts a roster before all its proofs have been verified.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from hre_torch.crypto.entropy import Entropy
from hre_torch.crypto.lane_keys import Exponents, check_public_keys
from hre_torch.crypto.modulus import Parameters
from hre_torch.crypto.schnorr import prove_knowledge, verify_knowledge
from hre_torch.errors import CryptoError, TaskError
from hre_torch.protocol.roster import KeyCard, Role, Roster, Secret
from hre_torch.protocol.suite import new_identity
from hre_torch.protocol.suites.keys import decode_keys, encode_exponents, encode_keys

__all__ = ["card_context", "check_roster", "proven_identity", "sum_key"]

_LABEL: Final = "hre_torch key card 2"


def proven_identity(
    role: Role, name: str, suite: str, parameters: Parameters, entropy: Entropy
) -> tuple[Secret, KeyCard]:
    """Return fresh exponents, one per lane, and a card that proves they are known."""
    exponents = Exponents.generate(parameters, entropy=entropy)
    public = exponents.public(parameters)
    secret, card = new_identity(
        role,
        name,
        suite,
        encode_keys(public, parameters),
        encode_exponents(exponents, parameters),
        entropy,
    )
    proof = prove_knowledge(
        exponents.reveal(), public, parameters, card_context(card, parameters)
    )
    return secret, msgspec.structs.replace(card, proof=proof)


def sum_key(one: KeyCard, other: KeyCard, parameters: Parameters) -> tuple[bytes, ...]:
    """Return `PK_j = h_aj h_bj mod n^2`, which anybody can compute from two cards.

    Raises:
        InvalidElementError: a card does not hold one fresh key per lane.
    """
    mine = decode_keys(one.public, parameters, whose=one.name)
    theirs = decode_keys(other.public, parameters, whose=other.name)
    joint = [a * b % parameters.n_squared for a, b in zip(mine, theirs, strict=True)]
    check_public_keys(joint, parameters, whose="the pair of servers")
    return encode_keys(joint, parameters)


@lru_cache(maxsize=64)
def check_roster(roster: Roster, parameters: Parameters) -> None:
    """Verify every card's proof and recompute the joint key; once per process.

    Raises:
        TaskError: a proof does not verify, or the joint key is not the product.
    """
    for card in roster.cards():
        try:
            public = decode_keys(card.public, parameters, whose=card.name)
            check_public_keys(public, parameters, whose=card.name)
            context = card_context(card, parameters)
            verify_knowledge(public, card.proof, parameters, context)
        except CryptoError as error:
            raise TaskError(
                f"the key card of {card.name!r} does not prove knowledge of its keys "
                f"({error}); ask its owner for the card that keygen made"
            ) from error
    product = sum_key(roster.data_service, roster.key_transform, parameters)
    if roster.joint_key != product:
        raise TaskError(
            "the roster's joint key is not the product of the two servers' keys: "
            "somebody exchanged it; compute it again from the cards"
        )


def card_context(card: KeyCard, parameters: Parameters) -> bytes:
    """Return what a card's proof is bound to besides the group and the keys."""
    return msgspec.msgpack.encode(
        (_LABEL, parameters.name, card.suite, card.role, card.name, card.signing_key)
    )
