"""Octets sealed for one recipient: ephemeral X25519, HKDF, AES-256-GCM.

    shared = X25519(ephemeral secret, recipient's public)
    key    = HKDF-SHA256(shared; info = label || ephemeral || recipient || context)
    sealed = AES-256-GCM(key, nonce 0; plaintext), associated data = context

A key seals one message only, so the nonce may be constant. This is the construction of
HPKE's base mode (R. Barnes, K. Bhargavan, B. Lipp, C. Wood, RFC 9180, 2022, section
5.1.1) without its framing; who sealed and who asked is signed by the messages around.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.errors import CryptoError, DecryptionError

__all__ = ["BOX_OVERHEAD", "BoxKey", "seal_box"]

BOX_OVERHEAD: Final = 16
"""Octets by which a sealed text is longer than the plain one."""
_LABEL: Final = b"hre_torch sealed box 1"
_KEY_BYTES: Final = 32
_NONCE: Final = bytes(12)


class BoxKey:
    """A fresh X25519 key that opens what others seal for it; its repr shows nothing.

    Args:
        entropy: source of the secret half.
    """

    __slots__ = ("_secret", "public")

    def __init__(self, entropy: Entropy = SYSTEM_ENTROPY) -> None:
        self._secret = X25519PrivateKey.from_private_bytes(entropy.octets(_KEY_BYTES))
        self.public: bytes = self._secret.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"BoxKey(public={self.public.hex()[:16]}...)"

    def open(self, ephemeral: bytes, sealed: bytes, context: bytes) -> bytes:
        """Return what was sealed for this key.

        Args:
            ephemeral: the sealer's public key, 32 octets.
            sealed: the sealed text.
            context: what both sides must agree on.

        Raises:
            DecryptionError: it was not sealed for this key and context.
        """
        try:
            key = _derive(self._secret, ephemeral, ephemeral, self.public, context)
            return AESGCM(key).decrypt(_NONCE, sealed, context)
        except (InvalidTag, ValueError, CryptoError):
            raise DecryptionError("a sealed box does not open") from None


def seal_box(
    recipient: bytes,
    plaintext: bytes,
    context: bytes,
    *,
    entropy: Entropy = SYSTEM_ENTROPY,
) -> tuple[bytes, bytes]:
    """Seal octets for one recipient.

    Args:
        recipient: its `BoxKey.public`, 32 octets.
        plaintext: what to seal.
        context: what both sides must agree on.
        entropy: source of the ephemeral key.

    Returns:
        The ephemeral public key and the sealed text.

    Raises:
        CryptoError: the recipient's key is none.
    """
    ephemeral = BoxKey(entropy)
    key = _derive(ephemeral._secret, recipient, ephemeral.public, recipient, context)
    return ephemeral.public, AESGCM(key).encrypt(_NONCE, plaintext, context)


def _derive(
    own: X25519PrivateKey, other: bytes, ephemeral: bytes, recipient: bytes, info: bytes
) -> bytes:
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise CryptoError(f"an X25519 key is no point to seal for: {error}") from None
    kdf = HKDF(SHA256(), _KEY_BYTES, None, _LABEL + ephemeral + recipient + info)
    return kdf.derive(shared)
