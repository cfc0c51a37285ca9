"""Servers of every backend, small enough for each test to have its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from hre_torch.participant.http import HTTPAggregator
from hre_torch.servers import running
from hre_torch.servers.local import LocalAggregator
from hre_torch.servers.serving import data_service, key_transform
from tests.servers.contract import Deployment, federate
from tests.sites import HASTY, Site, furnish


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def toy_may_be_served(monkeypatch):
    """Insecure profiles are never served; these tests need one nevertheless."""
    monkeypatch.setattr(running, "check_exposure", lambda parameters, host: None)


@pytest.fixture
def serve_locally(cleanup) -> Callable[..., Deployment]:
    """Start embedded servers: `serve_locally(suite, **options)`."""

    def serve(suite: str, **options) -> Deployment:
        federation = cleanup.enter_context(federate(suite, **options))
        return Deployment(
            federation,
            lambda name: LocalAggregator(name, servers=federation.servers),
        )

    return serve


@pytest.fixture
def serve_http(cleanup, toy_may_be_served) -> Callable[..., Deployment]:
    """Start both services on loopback: `serve_http(suite, **options)`."""

    def serve(suite: str, **options) -> Deployment:
        federation = cleanup.enter_context(federate(suite, **options))
        task, secrets = federation.task, federation._secrets
        kts = key_transform(task, secrets["kts"])
        kts_url = cleanup.enter_context(running.hosted(kts.app, task.parameters))
        dsp = data_service(task, secrets["dsp"], kts_url=kts_url)
        url = cleanup.enter_context(running.hosted(dsp.app, task.parameters))

        def connect(name: str) -> HTTPAggregator:
            link = HTTPAggregator(
                name, url=url, task=task, secret=secrets[name], policy=HASTY
            )
            cleanup.callback(link.close)
            return link

        deployment = Deployment(federation, connect)
        deployment.url, deployment.kts_url = url, kts_url
        deployment.dsp, deployment.kts = dsp, kts
        return deployment

    return serve


@pytest.fixture
def make_site(tmp_path, cleanup) -> Callable[..., Site]:
    """Make a site whose servers are processes: `make_site(suite, **numbers)`."""

    def make(suite: str, **options) -> Site:
        site = furnish(tmp_path, suite, **options)

        def end() -> None:
            for role in list(site.processes):
                site.stop(role, signal=9)

        cleanup.callback(end)
        return site

    return make
