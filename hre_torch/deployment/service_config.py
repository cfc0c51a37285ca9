"""What a server is told in its YAML file, checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from yaml import YAMLError

from hre_torch.aggregators.addresses import checked_url
from hre_torch.crypto.fixed_base import RECIPIENT_BYTES
from hre_torch.errors import RecipeError
from hre_torch.registry import nearest

__all__ = ["DSPConfig", "KTSConfig", "load_config"]


class KTSConfig(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid")

    roster: Path
    key: Path
    passphrase_file: Path | None = None
    store: Path
    host: str = "127.0.0.1"
    port: int = Field(8441, ge=0, le=65535)
    admin_host: str = "127.0.0.1"
    admin_port: int = Field(8451, ge=0, le=65535)
    workers: int = Field(2, ge=1)
    recipient_tables_mib: int = Field(RECIPIENT_BYTES >> 20, ge=0)
    certificate: Path | None = None
    private_key: Path | None = None

    @model_validator(mode="after")
    def _both_or_neither(self) -> KTSConfig:
        if (self.certificate is None) is not (self.private_key is None):
            raise ValueError("TLS needs both certificate and private_key")
        return self


class DSPConfig(KTSConfig):
    """Keys of `dsp.yaml`: those of `kts.yaml`, and how to reach the KTS.

    Attributes:
        kts: URL of the KTS.
        kts_ca: PEM certificates to trust for it instead of the system's.
    """

    port: int = Field(8440, ge=0, le=65535)
    admin_port: int = Field(8450, ge=0, le=65535)
    kts: Annotated[str, AfterValidator(checked_url)]
    kts_ca: Path | None = None


Config = TypeVar("Config", bound=BaseModel)


def load_config(path: Path, kind: type[Config]) -> Config:
    """Return a checked configuration; relative paths start from the file's folder.

    Raises:
        RecipeError: the file is missing, no YAML, or has a wrong key or value.
    """
    try:
        document: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise RecipeError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(document, dict):
        raise RecipeError(f"{path} must be a list of `key: value` lines")
    try:
        config = kind.model_validate(document)
    except ValidationError as error:
        raise RecipeError(_explain(error, path, kind)) from error
    folder = path.parent
    changes = {
        name: folder / value
        for name, value in config
        if isinstance(value, Path) and not value.is_absolute()
    }
    return config.model_copy(update=changes)


def _explain(error: ValidationError, path: Path, kind: type[BaseModel]) -> str:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"])) or "the file"
    if first["type"] == "extra_forbidden":
        return f"{path} has an unknown key {key!r}: " + nearest(
            key, sorted(kind.model_fields)
        )
    return f"{path}: {key}: {first['msg']}"
