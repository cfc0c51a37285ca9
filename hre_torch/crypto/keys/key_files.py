"""Secrets at rest: one encrypted file per key, which its owner alone can read.

    key        = scrypt(passphrase, salt; N = 2^17, r = 8, p = 1),  32 octets
    ciphertext = AES-256-GCM(key, nonce; secret)   with everything else in the file as
                 associated data: format, role, name, parameters digest, key id

Salt, nonce and key id are drawn anew for every file. The format fixes all the numbers
above, so a hostile file can ask neither for less work than ours nor for more memory.
A file has exactly one encoding.

A wrong passphrase, a flipped bit, a truncated file and a file of another version all
give one and the same `KeyFileError`, which says nothing of the reason. What anybody
sees without opening the file, that it is missing or that others can read it, is said.

Overwriting secrets in memory is more than Python can promise.

References:
    C. Percival, S. Josefsson, RFC 7914, 2016 (scrypt; N, r, p take about 128 MB).
    M. Dworkin, NIST SP 800-38D, 2007 (GCM).

Private files are written completely or not at all.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.durable_files import create_file
from hre_torch.errors import KeyFileError

__all__ = [
    "MAX_SECRET_BYTES",
    "KeyFile",
    "create_private",
    "read_key_file",
    "read_passphrase",
    "read_private",
    "write_key_file",
]

_OWNER_ALONE: Final = 0o600


def create_private(path: Path, data: bytes) -> None:
    """Write a file that did not exist before, for its owner's eyes only.

    The name is claimed first (`O_EXCL`), then replaced by a finished and fsynced file,
    and the folder is fsynced, so that no reader ever sees half a file and none is lost
    in a power cut. The mode is 0600 from the first moment on, whatever the umask says.

    Args:
        path: where to write; its folder must exist.
        data: what to write.

    Raises:
        KeyFileError: the path exists already or cannot be written.
    """
    try:
        create_file(path, data, _OWNER_ALONE)
    except FileExistsError:
        raise KeyFileError(
            f"{path} exists already; key files are never overwritten, name another file"
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"cannot write the key file {path}: {error.strerror}; name a file in a "
            "folder that exists and can be written"
        ) from error


def read_private(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a file that its owner alone can read.

    The checks look at the opened file, not at its name, which somebody could exchange
    in between. Opening without blocking keeps a named pipe from hanging us.

    Args:
        path: the file; a symbolic link is followed.
        most_bytes: one more is read at most, so that the caller sees what is too long.

    Raises:
        KeyFileError: there is no such file, others can read it, or it is no file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            _check_private(os.fstat(descriptor), path)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(most_bytes + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise KeyFileError(
            f"there is no key file {path}; make one with `hre-torch keygen`, or name "
            "the right file"
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"cannot read the key file {path}: {error.strerror}; run as its owner, or "
            "name another file"
        ) from error


def read_passphrase(path: Path) -> bytes:
    """Return the first line of a file that its owner wrote a passphrase into.

    A pipe will do, such as one from a password manager.

    Raises:
        KeyFileError: it cannot be read, is empty, or others can read it.
    """
    try:
        with path.open("rb") as file:
            _check_owner(os.fstat(file.fileno()), path, "passphrase file")
            return file.read().splitlines()[0]
    except (OSError, IndexError) as error:
        raise KeyFileError(
            f"cannot read a passphrase from {path}; write it into the first line"
        ) from error


def _check_private(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"{path} is no ordinary file; name the key file itself")
    _check_owner(status, path, "key file")


def _check_owner(status: os.stat_result, path: Path, what: str) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise KeyFileError(
            f"others than its owner can use the {what} {path} (mode {mode:04o}, "
            f"expected 0600): run `chmod 600 {path}`, and make a new key if a stranger "
            "may have read it"
        )
    if status.st_uid not in (0, os.geteuid()):
        raise KeyFileError(
            f"the {what} {path} belongs to user {status.st_uid}, who can read it, "
            f"but this process runs as user {os.geteuid()}: change its owner with "
            "`chown`, or run as that user"
        )


MAX_SECRET_BYTES: Final = 1 << 16
"""Sixteen exponents of 256 bits take 512 octets; nothing honest comes near."""

_FORMAT: Final = "hre_torch key file 1"
_HEXADECIMAL: Final = ("parameters_digest", "key_id", "salt", "nonce", "ciphertext")
_FIELDS: Final = ("format", "role", "name", *_HEXADECIMAL)
_SCRYPT_N: Final = 1 << 17
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 1
_KEY_BYTES: Final = 32
_SALT_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_KEY_ID_BYTES: Final = 16
_DIGEST_BYTES: Final = 32
_MOST_TEXT: Final = 128
# Two hexadecimal digits per octet; two texts, escaped in ASCII; short fields.
_MOST_FILE_BYTES: Final = 2 * MAX_SECRET_BYTES + 8192


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What an opened key file holds; its repr shows nothing of the secret.

    Attributes:
        role: whose key it is, such as `"dsp"`.
        name: identity of its owner.
        parameters_digest: digest of the group parameters that it was made for, 32
            octets; empty for a key that has no group, such as the operator's.
        key_id: 16 random octets that tell this file's key from all others.
        secret: the secret itself, opaque here.
    """

    role: str
    name: str
    parameters_digest: bytes
    key_id: bytes
    secret: bytes = field(repr=False)


def write_key_file(
    path: str | Path,
    *,
    role: str,
    name: str,
    parameters_digest: bytes,
    secret: bytes,
    passphrase: bytes,
    entropy: Entropy = SYSTEM_ENTROPY,
) -> bytes:
    """Write a key file that did not exist before, completely or not at all.

    Args:
        path: where to write; its folder must exist.
        role: whose key it is, 1 to 128 characters.
        name: identity of its owner, 1 to 128 characters.
        parameters_digest: `Parameters.digest`, 32 octets, or empty.
        secret: 1 to `MAX_SECRET_BYTES` octets.
        passphrase: what opens the file again; not empty.
        entropy: source of salt, nonce and key id.

    Returns:
        The key id, 16 octets.

    Raises:
        KeyFileError: the path exists already or cannot be written, the passphrase is
            empty, or a field has a length that is not allowed.
    """
    _check_content(role, name, parameters_digest, secret, passphrase)
    key_id = entropy.octets(_KEY_ID_BYTES)
    salt, nonce = entropy.octets(_SALT_BYTES), entropy.octets(_NONCE_BYTES)
    fields = {
        "format": _FORMAT,
        "role": role,
        "name": name,
        "parameters_digest": parameters_digest.hex(),
        "key_id": key_id.hex(),
        "salt": salt.hex(),
        "nonce": nonce.hex(),
    }
    cipher = AESGCM(_derive(passphrase, salt))
    ciphertext = cipher.encrypt(nonce, secret, _associated_data(fields))
    create_private(Path(path), _encode(fields | {"ciphertext": ciphertext.hex()}))
    return key_id


def read_key_file(path: str | Path, *, passphrase: bytes) -> KeyFile:
    """Open a key file.

    Args:
        path: the file.
        passphrase: what it was written with.

    Raises:
        KeyFileError: there is no such file; others than its owner can read it; or it
            does not open, for a reason that is deliberately not said.
    """
    data = read_private(Path(path), _MOST_FILE_BYTES)
    try:
        return _open(data, passphrase)
    except (ValueError, RecursionError, InvalidTag):
        # No chain: the cause would tell which of the reasons it was.
        raise KeyFileError(
            f"the key file {path} does not open: the passphrase is wrong, the file is "
            "damaged, or another version wrote it; try again, or fetch a backup"
        ) from None


def _open(data: bytes, passphrase: bytes) -> KeyFile:
    """Return what a file's bytes hold.

    Raises:
        ValueError, RecursionError: they are no such file.
        InvalidTag: the passphrase or anything in the file is not what it was.
    """
    fields = _parse(data)
    encoded = [fields[name] for name in _HEXADECIMAL]
    digest, key_id, salt, nonce, ciphertext = decoded = list(
        map(bytes.fromhex, encoded)
    )
    if [octets.hex() for octets in decoded] != encoded:
        raise ValueError("hexadecimal digits come in lower case and without blanks")
    sizes = (len(key_id), len(salt), len(nonce))
    if sizes != (_KEY_ID_BYTES, _SALT_BYTES, _NONCE_BYTES):
        raise ValueError("a field has another length")
    if not _TAG_BYTES < len(ciphertext) <= MAX_SECRET_BYTES + _TAG_BYTES:
        raise ValueError("the secret has a length that is never written")
    cipher = AESGCM(_derive(passphrase, salt))
    secret = cipher.decrypt(nonce, ciphertext, _associated_data(fields))
    return KeyFile(fields["role"], fields["name"], digest, key_id, secret)


def _parse(data: bytes) -> dict[str, str]:
    """Return the fields of a file: the known ones in their order, all of them text.

    Raises:
        ValueError, RecursionError: they are not, or not in their one encoding.
    """
    fields = json.loads(data.decode("ascii"))
    if not isinstance(fields, dict) or tuple(fields) != _FIELDS:
        raise ValueError("other fields than those of this format")
    if not all(isinstance(value, str) for value in fields.values()):
        raise ValueError("a field is not text")
    if fields["format"] != _FORMAT or _encode(fields) != data:
        raise ValueError("another format, or another encoding than the canonical one")
    return fields


def _encode(fields: Mapping[str, str]) -> bytes:
    return (json.dumps(fields, indent=2) + "\n").encode("ascii")


def _associated_data(fields: Mapping[str, str]) -> bytes:
    """Return the canonical encoding of every field but the ciphertext."""
    return json.dumps([fields[name] for name in _FIELDS[:-1]]).encode("ascii")


def _derive(passphrase: bytes, salt: bytes) -> bytes:
    kdf = Scrypt(salt=salt, length=_KEY_BYTES, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P)
    return kdf.derive(passphrase)


def _check_content(
    role: str, name: str, parameters_digest: bytes, secret: bytes, passphrase: bytes
) -> None:
    for what, text in (("role", role), ("name", name)):
        if not 1 <= len(text) <= _MOST_TEXT:
            raise KeyFileError(
                f"the {what} of a key has {len(text)} characters, expected 1 to "
                f"{_MOST_TEXT}; choose another one"
            )
    if len(parameters_digest) not in (0, _DIGEST_BYTES):
        raise KeyFileError(
            f"a parameters digest has {len(parameters_digest)} octets, expected "
            f"{_DIGEST_BYTES}, or none for a key without a group; use "
            "Parameters.digest"
        )
    if not 1 <= len(secret) <= MAX_SECRET_BYTES:
        raise KeyFileError(
            f"a key file holds 1 to {MAX_SECRET_BYTES} octets of secret, not "
            f"{len(secret)}; keep anything else in files of its own"
        )
    if not passphrase:
        raise KeyFileError(
            "the passphrase is empty and would protect nothing; choose one, or keep a "
            "random one in a file of its own"
        )
