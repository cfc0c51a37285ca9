"""Ed25519 signatures (RFC 8032) for every message, through pyca/cryptography."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.errors import SignatureError

__all__ = ["SIGNATURE_BYTES", "SigningKey", "verify"]

SIGNATURE_BYTES: Final = 64
_SEED_BYTES: Final = 32


class SigningKey:
    """A private Ed25519 key; its repr shows nothing of it.

    Args:
        seed: 32 octets, the RFC 8032 private key.
    """

    __slots__ = ("_key", "_seed", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != _SEED_BYTES:
            raise SignatureError(
                f"an Ed25519 private key has {_SEED_BYTES} octets, not {len(seed)}"
            )
        self._seed = bytes(seed)
        self._key = Ed25519PrivateKey.from_private_bytes(self._seed)
        self.public: bytes = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Entropy = SYSTEM_ENTROPY) -> SigningKey:
        """Return a fresh key."""
        return cls(entropy.octets(_SEED_BYTES))

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()[:16]}...)"

    def sign(self, message: bytes) -> bytes:
        """Return the 64-octet signature of `message`."""
        return self._key.sign(message)

    def secret_bytes(self) -> bytes:
        """Return the 32 secret octets, for a key file only."""
        return self._seed


def verify(public: bytes, signature: bytes, message: bytes, *, who: str) -> None:
    """Check one signature.

    Args:
        public: 32 octets of the key that should have signed.
        signature: 64 octets.
        message: what was signed.
        who: name of the supposed signer, for the error.

    Raises:
        SignatureError: the signature is not that of `who` over `message`.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise SignatureError(
            f"the signature is not {who}'s: the message was changed on its way or "
            "comes from somebody else; check the roster and ask for it again"
        ) from None
