"""The signed list of a run directory's files: what lay there when the run ended.

`manifest.json` names every file with its size and SHA-256. The task's operator signs
the list. In a federation of one process that key is made with the run, lies in its
checkpoint while it runs, and is gone when it has ended: nobody can sign a second list
for the same task. Its public half is in the task, which is the transcript's first
record, so a list that another key has signed does not belong to this transcript.

What is signed is

    "hre_torch run directory" || msgpack(format, cfg, ((name, size, SHA-256), ...))

with the files in the order of their names and `cfg` the hash of the task.

The weights file holds the integers that everybody opened. It holds a module's tensors
under their own names, in their own dtypes. Which of them were released, and in which
order they make up the flat vector, is in its metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from hre_torch.crypto.keys.signatures import SigningKey, verify
from hre_torch.durable_files import replace_file
from hre_torch.errors import MessageError

__all__ = [
    "CHECKPOINT",
    "MANIFEST",
    "METRICS",
    "RECIPE",
    "RELEASED",
    "SUMMARY",
    "WEIGHTS",
    "Manifest",
    "changes",
    "later_files",
    "read_manifest",
    "released_values",
    "write_manifest",
]

RELEASED: Final = "released"
"""Key of the metadata: names of the released tensors, a list in JSON."""


def released_values(
    path: Path, n_values: int, fraction_bits: int
) -> npt.NDArray[np.int64] | None:
    """Return the released weights of a weights file.

    Args:
        path: the file.
        n_values: length of the flat vector.
        fraction_bits: `f`.

    Returns:
        int64 at scale 2^f, shape `(n_values,)`; None if a weight is so large that its
        dtype holds no longer every integer, and the file only an image of the vector.

    Raises:
        MessageError: the file is no weights file, or of other weights.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            names = json.loads((file.metadata() or {})[RELEASED])
            tensors = [file.get_tensor(name) for name in names]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise MessageError(f"the released weights are unreadable: {error}") from None
    pieces, exact = [np.empty(0)], True
    for tensor in tensors:
        scaled = tensor.ravel().astype(np.float64) * 2.0**fraction_bits
        # Every integer up to 2^(m + 1) has its own float of m stored mantissa bits.
        most = 2.0 ** (np.finfo(tensor.dtype).nmant + 1)
        exact &= bool(np.all(np.abs(scaled) <= most))
        pieces.append(scaled)
    values = np.concatenate(pieces)
    if values.size != n_values:
        raise MessageError(
            f"it holds {values.size} released weights, but the task has {n_values}"
        )
    if not exact:
        return None
    whole = np.rint(values)
    if not np.array_equal(whole, values):
        raise MessageError(
            f"weight {int(np.argmax(whole != values))} of {n_values} is no multiple of "
            f"2^-{fraction_bits}, as every released one is"
        )
    return whole.astype(np.int64)


MANIFEST: Final = "manifest.json"
RECIPE: Final = "recipe.yaml"
METRICS: Final = "metrics.jsonl"
WEIGHTS: Final = "weights.safetensors"
SUMMARY: Final = "summary.json"
CHECKPOINT: Final = "checkpoint"

_FORMAT: Final = 1
_DOMAIN: Final = b"hre_torch run directory"
# TensorBoard's own programs may append to its files; nothing reads results from them.
_MAY_GROW: Final = "tensorboard/"


_BLOCK: Final = 1 << 20


class SignedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file: its size in octets, and its SHA-256 in hexadecimal."""

    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.size} octets with SHA-256 {self.sha256[:16]}"

    @classmethod
    def of(cls, path: Path, most: int = -1) -> SignedFile:
        """Describe a file, or its first `most` octets.

        Raises:
            OSError: it cannot be read.
        """
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while size != most:
                left = _BLOCK if most < 0 else min(_BLOCK, most - size)
                block = file.read(left)
                if not block:
                    break
                digest.update(block)
                size += len(block)
        return cls(size, digest.hexdigest())


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The list, and whose it is.

    Attributes:
        format: version of this format.
        task: `cfg`, the hash of the task, in hexadecimal.
        operator: Ed25519 key of the task's operator, in hexadecimal.
        files: by name, relative to the run directory, with `/` between folders.
        signature: the operator's, in hexadecimal.
    """

    format: int
    task: str
    operator: str
    files: dict[str, SignedFile]
    signature: str = ""

    def verify(self, operator: bytes, cfg: bytes) -> None:
        """Check that the operator of a task has signed this list for it.

        Raises:
            MessageError: it belongs to another task.
            SignatureError: the list was changed, or signed by somebody else.
        """
        if self.task != cfg.hex():
            raise MessageError(
                f"it lists the files of task {self.task[:16]}, but the transcript is "
                f"that of task {cfg.hex()[:16]}: one of them comes from another run"
            )
        if self.operator != operator.hex():
            raise MessageError(
                f"it names the operator {self.operator[:16]}, but the task is signed "
                f"by {operator.hex()[:16]}"
            )
        try:
            signature = bytes.fromhex(self.signature)
        except ValueError:
            signature = b""
        verify(operator, signature, self.signed(), who="the operator")

    def encode(self) -> bytes:
        """Return the text of the file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def signed(self) -> bytes:
        """Return the octets that the signature covers."""
        listed = [(name, f.size, f.sha256) for name, f in sorted(self.files.items())]
        return _DOMAIN + msgspec.msgpack.encode((self.format, self.task, listed))


def write_manifest(
    folder: Path, cfg: bytes, operator: SigningKey, coming: Mapping[str, bytes]
) -> None:
    """Sign what lies in a run directory, its checkpoint aside.

    Args:
        folder: the run directory.
        cfg: hash of the task.
        operator: the key that has signed the task.
        coming: files that are written next, by name, and what will be in them.

    Raises:
        OSError: a file cannot be read, or the manifest not be written.
    """
    files = {name: SignedFile.of(path) for name, path in _present(folder).items()}
    for name, data in coming.items():
        files[name] = SignedFile(len(data), hashlib.sha256(data).hexdigest())
    manifest = Manifest(
        _FORMAT, cfg.hex(), operator.public.hex(), dict(sorted(files.items()))
    )
    signature = operator.sign(manifest.signed()).hex()
    signed = msgspec.structs.replace(manifest, signature=signature)
    replace_file(folder / MANIFEST, signed.encode())


def read_manifest(folder: Path) -> Manifest:
    """Read the list; nothing is verified yet.

    Raises:
        MessageError: there is none, or it is damaged or of another version.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
        manifest = msgspec.json.decode(data, type=Manifest)
    except FileNotFoundError:
        raise MessageError(
            "it is missing: nothing vouches for the files beside the transcript. A "
            "run that ends writes it; earlier versions of hre_torch did not"
        ) from None
    except OSError as error:
        raise MessageError(f"it cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"it is unreadable: {error}") from None
    if manifest.format != _FORMAT:
        raise MessageError(
            f"it has format {manifest.format}, this version of hre_torch reads format "
            f"{_FORMAT}; audit it with the version that wrote it"
        )
    if data != manifest.encode():
        raise MessageError("it is not laid out as it is written: it was changed")
    return manifest


def changes(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield which listed files are not what was signed, and how they differ."""
    present = _present(folder)
    for name, signed in manifest.files.items():
        if name not in present:
            yield f"{name}: it is missing; the signed list has {signed}"
            continue
        try:
            found = SignedFile.of(present[name])
            start = SignedFile.of(present[name], signed.size)
        except OSError as error:
            yield f"{name}: it cannot be read ({error.strerror})"
            continue
        if found == signed or (start == signed and name.startswith(_MAY_GROW)):
            continue
        if start == signed:
            more = found.size - signed.size
            yield f"{name}: {more} octets were appended to the {signed.size} signed"
        else:
            yield f"{name}: it has {found}, but the signed list {signed}"


def later_files(folder: Path, manifest: Manifest) -> list[str]:
    """Return the names of files that are not in the list, such as a report's."""
    return sorted(_present(folder).keys() - manifest.files.keys())


def _present(folder: Path) -> dict[str, Path]:
    """Return the files of a run directory by the name that the list gives them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        unfinished = path.name.startswith(".") and path.suffix == ".unfinished"
        if relative.parts[0] in (CHECKPOINT, MANIFEST) or unfinished:
            continue
        if path.is_file():
            # File systems know names that are no text.
            name = relative.as_posix().encode("utf-8", "backslashreplace").decode()
            found[name] = path
    return found
