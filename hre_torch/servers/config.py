"""What a server is told in its YAML file, checked before anything starts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import yaml

from hre_torch.crypto.dcr.fixed_base import RECIPIENT_BYTES
from hre_torch.errors import RecipeError
from hre_torch.http_client import checked_url
from hre_torch.registry import nearest

__all__ = ["DSPConfig", "KTSConfig", "load_config"]

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class KTSConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys of `kts.yaml`; paths are relative to the file's folder.

    Attributes:
        roster: the signed roster file.
        key: this server's key file.
        passphrase_file: file of its passphrase; asked for where None.
        store: folder of the durable state; made if it does not exist.
        host: address to listen on.
        port: port to listen on.
        admin_host: address for `/healthz`, `/readyz` with reasons and `/metrics`, which
            shows names: reach it from the machines of whoever runs the server only.
        admin_port: port for these; 0 takes any free one, which the log names.
        workers: processes for arithmetic; 1 uses none.
        recipient_tables_mib: most memory for tables of recipients' keys, in each of
            these processes; what does not fit costs time. See `crypto/README.md`.
        certificate: PEM chain for TLS; plain HTTP where None.
        private_key: PEM key of the certificate.
    """

    roster: Path
    key: Path
    passphrase_file: Path | None = None
    store: Path
    host: str = "127.0.0.1"
    port: Port = 8441
    admin_host: str = "127.0.0.1"
    admin_port: Port = 8451
    workers: Annotated[int, msgspec.Meta(ge=1)] = 2
    recipient_tables_mib: Annotated[int, msgspec.Meta(ge=0)] = RECIPIENT_BYTES >> 20
    certificate: Path | None = None
    private_key: Path | None = None

    def __post_init__(self) -> None:
        """Check what no single key says."""
        if (self.certificate is None) is not (self.private_key is None):
            raise ValueError("TLS needs both certificate and private_key")


class DSPConfig(KTSConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys of `dsp.yaml`: those of `kts.yaml`, and how to reach the KTS.

    Attributes:
        kts: URL of the KTS.
        kts_ca: PEM certificates to trust for it instead of the system's.
    """

    port: Port = 8440
    admin_port: Port = 8450
    kts: str
    kts_ca: Path | None = None

    def __post_init__(self) -> None:
        """Check what no single key says, and the URL."""
        KTSConfig.__post_init__(self)
        checked_url(self.kts)


Config = TypeVar("Config", bound=msgspec.Struct)


def load_config(path: Path, kind: type[Config]) -> Config:
    """Return a checked configuration; relative paths start from the file's folder.

    Raises:
        RecipeError: the file is missing, no YAML, or has a wrong key or value.
    """
    document = _document(path)
    for key in document:
        if key not in kind.__struct_fields__:
            raise RecipeError(
                f"{path} has an unknown key {key!r}: "
                + nearest(str(key), sorted(kind.__struct_fields__))
            )

    def absolute(_: type, value: str) -> Path:
        return path.parent / value

    try:
        return msgspec.convert(document, kind, dec_hook=absolute)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise RecipeError(f"{path}: {error}") from error


def _document(path: Path) -> dict[Any, Any]:
    """Return the keys and values of a YAML file, none of them twice.

    Servers read it without the libraries of recipes, which would take a quarter of the
    time in which a server is back.
    """
    try:
        text = path.read_bytes()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document: Any = yaml.safe_load(text)
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(document, dict):
        raise RecipeError(f"{path} must be a list of `key: value` lines")
    for key, count in Counter(key.value for key, _ in node.value).items():
        if count > 1:
            raise RecipeError(f"{path} has {count} lines for the key {key!r}; keep one")
    return document
