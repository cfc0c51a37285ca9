"""Honest uploads for the tests of proofs, made with plain powers only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from gmpy2 import mpz, powmod

from hre_torch.crypto.dcr.encryption import Ciphertext
from hre_torch.crypto.dcr.modulus import Parameters, load_profile
from hre_torch.crypto.dcr.proofs import prove, verify_blocks, verify_heads
from hre_torch.crypto.dcr.transcript import encode_elements
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.errors import ProofError

_SECRETS = [SYSTEM_ENTROPY.even_exponent(64) for _ in range(16)]


@dataclass(frozen=True)
class Upload:
    """What a participant knows (plaintexts, randomness) and what it sends."""

    params: Parameters
    joint: tuple[mpz, ...]
    identity: bytes
    plaintexts: list[list[int]]
    randomness: list[mpz]
    blocks: list[Ciphertext]
    header: bytes
    proof: bytes

    @property
    def heads(self) -> list[mpz]:
        return [block.head for block in self.blocks]

    @property
    def n_plaintexts(self) -> int:
        return sum(map(len, self.plaintexts))

    def check_heads(self) -> None:
        """Look at the upload as the KTS does."""
        verify_heads(
            self.heads, self.proof, self.n_plaintexts, self.params, self.header
        )

    def check_blocks(self) -> None:
        """Look at the upload as the DSP does."""
        verify_blocks(self.blocks, self.proof, self.joint, self.params, self.header)

    def refused_by(self) -> set[str]:
        """Return which of the two servers refuse the upload."""
        refusing = set()
        for name, check in (("KTS", self.check_heads), ("DSP", self.check_blocks)):
            try:
                check()
            except ProofError:
                refusing.add(name)
        return refusing

    def forged(self, blocks: list[Ciphertext], **known: object) -> Upload:
        """Return the best that the honest prover's code can do for other blocks."""
        header = bind(blocks, b"mallory", self.params)
        bare = replace(self, blocks=blocks, header=header, **known)
        proof = prove(
            bare.plaintexts, bare.randomness, bare.joint, bare.params, bare.header
        )
        return replace(bare, proof=proof)


def bind(blocks: list[Ciphertext], identity: bytes, params: Parameters) -> bytes:
    """Return a header that holds what `prove` asks of its caller."""
    lanes = encode_elements([x for block in blocks for x in block.lanes], params)
    heads = encode_elements([block.head for block in blocks], params)
    hashes = hashlib.sha256(lanes).digest() + hashlib.sha256(heads).digest()
    return b"an upload of " + identity + b": " + hashes


def encrypt_with(
    plaintexts: list[int], r: mpz, joint: tuple[mpz, ...], params: Parameters
) -> Ciphertext:
    """Return a block as its definition says, without tables."""
    n, n_squared = params.n, params.n_squared
    return Ciphertext(
        head=powmod(params.g, r, n_squared),
        lanes=tuple(
            (1 + m * n) * powmod(key, r, n_squared) % n_squared
            for m, key in zip(plaintexts, joint, strict=False)
        ),
    )


def seal(
    n_plaintexts: int, identity: bytes = b"alice", profile: str = "toy-insecure"
) -> Upload:
    """Return an honest upload of random plaintexts."""
    params = load_profile(profile)
    joint = tuple(
        powmod(params.g, x, params.n_squared) for x in _SECRETS[: params.lanes]
    )
    values = [
        int(SYSTEM_ENTROPY.below(params.n) - params.n // 2) for _ in range(n_plaintexts)
    ]
    plaintexts = [
        values[start : start + params.lanes]
        for start in range(0, n_plaintexts, params.lanes)
    ]
    randomness = [SYSTEM_ENTROPY.exponent(params.exponent_bits) for _ in plaintexts]
    blocks = [
        encrypt_with(row, r, joint, params)
        for row, r in zip(plaintexts, randomness, strict=True)
    ]
    header = bind(blocks, identity, params)
    proof = prove(plaintexts, randomness, joint, params, header)
    return Upload(
        params, joint, identity, plaintexts, randomness, blocks, header, proof
    )


@pytest.fixture(scope="session")
def seal_upload() -> Callable[..., Upload]:
    """Make honest uploads: `seal_upload(n_plaintexts, identity, profile)`."""
    return seal


@pytest.fixture(scope="session")
def bind_header() -> Callable[..., bytes]:
    """Make the header of changed blocks: `bind_header(blocks, identity, params)`."""
    return bind


@pytest.fixture(scope="session")
def encrypt_block() -> Callable[..., Ciphertext]:
    """Encrypt with a chosen exponent: `encrypt_block(plaintexts, r, joint, params)`."""
    return encrypt_with


@pytest.fixture(scope="session")
def upload() -> Upload:
    """An honest toy upload of three blocks, the last with one lane of three."""
    return seal(7)
