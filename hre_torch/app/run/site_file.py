"""`site.yaml`: what one site needs to take part, for scripts that call `join`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from hre_torch.crypto.keys.key_files import read_passphrase
from hre_torch.durable_files import replace_file
from hre_torch.errors import RunDirectoryError
from hre_torch.http_client import checked_url
from hre_torch.participant.connection import connect
from hre_torch.participant.session import Session
from hre_torch.participant.session_state import SessionState
from hre_torch.servers.config import load_config

__all__ = ["SiteConfig", "join_site"]


class SiteConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys of `site.yaml`; paths are relative to the file's folder.

    Attributes:
        dsp: URL of the DSP.
        key: this participant's key file.
        passphrase_file: file of its passphrase, which others cannot read.
        roster: the signed roster file.
        initial: the weights that the task starts from; without them they come from
            another participant.
        state: file that remembers where this site stood, so that a script that loads
            its own checkpoint goes on exactly; written whenever the script takes
            `optimizer.state_dict()`, and when it finishes.
        ca: PEM certificates to trust instead of the system's.
        timeout: seconds without an answer after which it is an error; none.
        workers: processes for the cryptography.
    """

    dsp: str
    key: Path
    passphrase_file: Path
    roster: Path
    initial: Path | None = None
    state: Path | None = None
    ca: Path | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None
    workers: Annotated[int, msgspec.Meta(ge=1)] = 1

    def __post_init__(self) -> None:
        """Check the URL."""
        checked_url(self.dsp)


def join_site(path: Path, module: Any) -> Session:
    """Return the session of the site that a file describes.

    Args:
        path: of `site.yaml`.
        module: the model that is trained.

    Raises:
        RecipeError: the file has a wrong key or value.
        RunDirectoryError: the state is damaged.
        HREError: as for `connect`.
    """
    site = load_config(path, SiteConfig)
    past = None if site.state is None else _read_state(site.state)
    session = connect(
        site.dsp,
        key_file=site.key,
        roster=site.roster,
        passphrase=read_passphrase(site.passphrase_file),
        initial=site.initial,
        state=past,
        module=module,
        ca_file=site.ca,
        timeout=site.timeout,
        workers=site.workers,
    )
    if site.state is not None:
        state = site.state
        session.keep = lambda: _write_state(state, session)
    return session


def _read_state(path: Path) -> SessionState | None:
    try:
        data = path.read_bytes()
        return msgspec.msgpack.decode(data, type=SessionState)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RunDirectoryError(
            f"{path} does not say where this site stood ({error}); remove it to start "
            "from the other participants' weights"
        ) from error


def _write_state(path: Path, session: Session) -> None:
    try:
        replace_file(path, msgspec.msgpack.encode(session.state()), mode=0o600)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {path}: {error.strerror}") from error
