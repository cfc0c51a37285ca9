"""Starts a server from its configuration; everything is checked before it listens.

A role, its store and its measurements make a service.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, TypeVar

from cryptography import x509

from hre_torch.crypto.dcr.fixed_base import limit_recipient_tables
from hre_torch.errors import HREError, KeyFileError
from hre_torch.protocol.roster import DATA_SERVICE, KEY_TRANSFORM, Secret
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers
from hre_torch.servers.config import DSPConfig, KTSConfig, load_config
from hre_torch.servers.data_service import DataServiceProvider
from hre_torch.servers.dsp_app import DataServiceService
from hre_torch.servers.key_transform import KeyTransformServer
from hre_torch.servers.kts_app import KeyTransformService
from hre_torch.servers.kts_client import KTSClient
from hre_torch.servers.logs import log_event, write_logs_to
from hre_torch.servers.metrics import Metrics
from hre_torch.servers.running import (
    check_certificate,
    check_exposure,
    serve,
)
from hre_torch.servers.steps import Durable, InMemory
from hre_torch.servers.store import Store
from hre_torch.setup.identities import open_role
from hre_torch.setup.roster_file import profile_of, read_roster, task_of

__all__ = ["data_service", "key_transform", "serve_dsp", "serve_kts"]

Role = TypeVar("Role", DataServiceProvider, KeyTransformServer)


def data_service(
    task: Task,
    secret: Secret,
    *,
    kts_url: str,
    kts_ca: Path | None = None,
    folder: Path | None = None,
    workers: Workers | None = None,
    published: bytes = b"",
) -> DataServiceService:
    """Return a DSP that keeps its state in `folder`, or nowhere.

    Args:
        task: the task.
        secret: the DSP's keys.
        kts_url: where the KTS listens, such as `"http://127.0.0.1:8441"`.
        kts_ca: PEM certificates to trust for it instead of the system's.
        folder: of the store; None keeps nothing.
        workers: where block-wise arithmetic runs.
        published: the signed roster file, for whoever asks.
    """
    metrics = Metrics()
    store = _store(folder, task, DATA_SERVICE, metrics)
    open_role = _opener(DataServiceProvider, task, secret, store, metrics, workers)
    max_bytes = SUITES.get(task.config.suite).max_message_bytes(task)
    kts_client = KTSClient(
        task, kts_url, max_bytes=max_bytes, metrics=metrics, ca_file=kts_ca
    )
    return DataServiceService(
        task, secret, open_role, store, kts_client, metrics, published=published
    )


def key_transform(
    task: Task,
    secret: Secret,
    *,
    folder: Path | None = None,
    workers: Workers | None = None,
) -> KeyTransformService:
    """Return a KTS that keeps its state in `folder`, or nowhere."""
    metrics = Metrics()
    store = _store(folder, task, KEY_TRANSFORM, metrics)
    open_role = _opener(KeyTransformServer, task, secret, store, metrics, workers)
    return KeyTransformService(task, secret, open_role, store, metrics)


def _store(
    folder: Path | None, task: Task, role: Literal["dsp", "kts"], metrics: Metrics
) -> Durable:
    if folder is None:
        return InMemory()
    return Store.open(folder, task, role, observe=metrics)


def _opener(
    made: Callable[..., Role],
    task: Task,
    secret: Secret,
    store: Durable,
    metrics: Metrics,
    workers: Workers | None,
) -> Callable[[], Role]:
    """Return what makes a role from what its store holds, again after a failure."""

    def open_role() -> Role:
        return made(
            task,
            secret,
            workers or Workers(),
            observe=metrics,
            state=store.load(),
            journal=store.journal,
            keep=_kept(task),
        )

    return open_role


def _kept(task: Task) -> int:
    """Return how many releases wait for participants that have not fetched them.

    Whoever is more than S releases behind cannot push, learns so, and pulls: as many
    again leave time for that. Who is silent for longer gets the released weights from
    another participant, sealed.
    """
    return 2 * task.config.staleness_bound


_EXIT_ERROR: Final = 2
_RENEW_WITHIN: Final = datetime.timedelta(days=14)
"""ACME clients renew a month before the end; two weeks later something is wrong."""

AskPassphrase = Callable[[Path, Path | None], bytes]
"""Given a key file and perhaps a file of its passphrase, returns the passphrase."""


def serve_dsp(path: Path, ask: AskPassphrase) -> None:
    """Serve a DSP until it is told to end.

    Raises:
        ConfigurationError, KeyFileError: something does not fit; nothing was served.
        SystemExit: what the last line of the log says.
    """
    config = load_config(path, DSPConfig)
    task, secret = _opened(config, DATA_SERVICE, ask)
    with _logged(config):
        workers = Workers.processes(config.workers)
        service = data_service(
            task,
            secret,
            kts_url=config.kts,
            kts_ca=config.kts_ca,
            folder=config.store,
            workers=workers,
            published=config.roster.read_bytes(),
        )
        _serve(service, config, task, workers)


def serve_kts(path: Path, ask: AskPassphrase) -> None:
    """Serve a KTS until it is told to end.

    Raises:
        ConfigurationError, KeyFileError: something does not fit; nothing was served.
        SystemExit: what the last line of the log says.
    """
    config = load_config(path, KTSConfig)
    task, secret = _opened(config, KEY_TRANSFORM, ask)
    with _logged(config):
        workers = Workers.processes(config.workers)
        service = key_transform(task, secret, folder=config.store, workers=workers)
        _serve(service, config, task, workers)


def _opened(config: KTSConfig, role: str, ask: AskPassphrase) -> tuple[Task, Secret]:
    file = read_roster(config.roster)
    task = task_of(file, profile_of(file, config.roster.parent))
    check_exposure(task.parameters, config.host)
    check_certificate(config.certificate, config.private_key)
    limit_recipient_tables(config.recipient_tables_mib << 20)
    secret = open_role(
        config.key,
        ask(config.key, config.passphrase_file),
        suite=task.config.suite,
        parameters=task.parameters,
    )
    if secret.name != role:
        raise KeyFileError(
            f"{config.key} is the key of {secret.name!r}, not the {role}"
        )
    task.roster.require_keys(secret)
    return task, secret


@contextlib.contextmanager
def _logged(config: KTSConfig) -> Iterator[None]:
    """Write all that comes as lines of JSON, an error that ends it included."""
    write_logs_to(sys.stderr)
    _warn_of_expiry(config.certificate)
    try:
        yield
    except HREError as error:
        reason = type(error).__name__
        log_event("failed", level=logging.ERROR, reason=reason, message=str(error))
        raise SystemExit(_EXIT_ERROR) from None


def _warn_of_expiry(certificate: Path | None) -> None:
    """Log a warning if a certificate is not valid now, or not for long."""
    if certificate is None:
        return
    first = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    now = datetime.datetime.now(datetime.UTC)
    ends = first.not_valid_after_utc
    if first.not_valid_before_utc > now:
        said = "certificate is not valid yet"
    elif ends < now:
        said = "certificate has expired"
    elif ends < now + _RENEW_WITHIN:
        said = "certificate expires soon"
    else:
        return
    log_event(
        said,
        level=logging.WARNING,
        certificate=str(certificate),
        first=first.not_valid_before_utc.isoformat(),
        last=ends.isoformat(),
    )


def _serve(
    service: DataServiceService | KeyTransformService,
    config: KTSConfig,
    task: Task,
    workers: Workers,
) -> None:
    # The pool forks here, where no other thread runs and all tables are made.
    workers.start()
    log_event("starting", task=task.cfg.hex()[:16], suite=task.config.suite)
    try:
        serve(
            service.app,
            service.admin,
            task.parameters,
            host=config.host,
            port=config.port,
            admin_host=config.admin_host,
            admin_port=config.admin_port,
            certificate=config.certificate,
            private_key=config.private_key,
        )
    finally:
        workers.close()
        log_event("ended")
