"""Puts a role, its store and its measurements together into a service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from hre_torch.aggregators.services.dsp import DataServiceService
from hre_torch.aggregators.services.errands import Errands
from hre_torch.aggregators.services.kts import KeyTransformService
from hre_torch.aggregators.services.metrics import Metrics
from hre_torch.aggregators.services.steps import Durable, InMemory
from hre_torch.aggregators.store import Store
from hre_torch.protocol.data_service import DataServiceProvider
from hre_torch.protocol.key_transform import KeyTransformServer
from hre_torch.protocol.roster import DATA_SERVICE, KEY_TRANSFORM, Secret
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

__all__ = ["data_service", "key_transform"]

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
    errands = Errands(
        task, kts_url, max_bytes=max_bytes, metrics=metrics, ca_file=kts_ca
    )
    return DataServiceService(
        task, secret, open_role, store, errands, metrics, published=published
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
