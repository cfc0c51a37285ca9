"""Puts a role, its store and its measurements together into a service."""

from __future__ import annotations

from pathlib import Path

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
    store: Durable = InMemory()
    if folder is not None:
        store = Store.open(folder, task, DATA_SERVICE, observe=metrics)

    def open_role() -> DataServiceProvider:
        return DataServiceProvider(
            task,
            secret,
            workers or Workers(),
            observe=metrics,
            state=store.load(),
            journal=store.journal,
            keep=_kept(task),
        )

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
    store: Durable = InMemory()
    if folder is not None:
        store = Store.open(folder, task, KEY_TRANSFORM, observe=metrics)

    def open_role() -> KeyTransformServer:
        return KeyTransformServer(
            task,
            secret,
            workers or Workers(),
            observe=metrics,
            state=store.load(),
            journal=store.journal,
            keep=_kept(task),
        )

    return KeyTransformService(task, secret, open_role, store, metrics)


def _kept(task: Task) -> int:
    """Return how many releases wait for participants that have not fetched them.

    Whoever is more than S releases behind cannot push, learns so, and pulls: as many
    again leave time for that. Who is silent for longer gets the released weights from
    another participant, sealed.
    """
    return 2 * task.config.staleness_bound
