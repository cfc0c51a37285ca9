"""Both services, where the folder of one of them was put back from an older copy."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from hre_torch.errors import AggregatorError
from hre_torch.participant.http import HTTPAggregator
from hre_torch.participant.session import Session
from hre_torch.protocol.workers import Workers
from hre_torch.servers import running
from hre_torch.servers.dsp_app import DataServiceService
from hre_torch.servers.kts_app import KeyTransformService
from hre_torch.servers.readiness import Readiness
from hre_torch.servers.serving import data_service, key_transform
from hre_torch.servers.store import check_store
from tests.servers.contract import Deployment, federate, same
from tests.sites import HASTY

NAMES = ("p0", "p1", "p2")


class Stores:
    """Services with stores, which can be stopped, copied, put back and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.federation = federate("plain")
        self.sessions: dict[str, Session] = {}
        self.running = ExitStack()
        self.kts_port = 0

    def start(self) -> None:
        self.start_kts()
        self.start_dsp()

    def start_kts(self) -> None:
        task, secrets = self.federation.task, self.federation._secrets
        self.kts = key_transform(task, secrets["kts"], folder=self.folder / "kts")
        self.kts_stack = self.running.enter_context(ExitStack())
        self.kts_url = self.kts_stack.enter_context(
            running.hosted(self.kts.app, task.parameters, port=self.kts_port)
        )
        self.kts_port = int(self.kts_url.rpartition(":")[2])

    def start_dsp(self) -> None:
        task, secrets = self.federation.task, self.federation._secrets
        self.dsp = data_service(
            task, secrets["dsp"], kts_url=self.kts_url, folder=self.folder / "dsp"
        )
        self.url = self.running.enter_context(
            running.hosted(self.dsp.app, task.parameters)
        )

        def connect(name: str) -> HTTPAggregator:
            link = HTTPAggregator(
                name, url=self.url, task=task, secret=secrets[name], policy=HASTY
            )
            self.running.callback(link.close)
            return link

        for name in NAMES:
            if name not in self.sessions:
                joined = Deployment(self.federation, connect).join(name)
                self.sessions[name] = joined
            self.sessions[name]._carrier.aggregator = connect(name)

    def stop(self) -> None:
        self.running.close()

    def push(self, *names: str) -> None:
        for name in names:
            self.sessions[name].push(same(1))

    def release(self) -> None:
        self.push(*NAMES)
        for session in self.sessions.values():
            session.pull()

    def copy(self, role: str) -> None:
        """Copy the folder of a server that is stopped."""
        shutil.rmtree(self.folder / "copy", ignore_errors=True)
        shutil.copytree(self.folder / role, self.folder / "copy")

    def put_back(self, role: str) -> None:
        """Put the copy in the place of a stopped server's folder."""
        shutil.rmtree(self.folder / role)
        shutil.copytree(self.folder / "copy", self.folder / role)

    def await_ready(self, role: str) -> None:
        self._await(role, lambda readiness: readiness.ready)

    def await_old(self, role: str) -> str:
        """Wait until a server is not ready because of an old copy; return the words."""
        self._await(role, lambda readiness: "older copy" in words_of(readiness))
        url = {"dsp": self.url, "kts": self.kts_url}[role]
        assert httpx.get(f"{url}/readyz").status_code == 503
        return words_of(getattr(self, role)._readiness)

    def _await(self, role: str, reached: Callable[[Readiness], bool]) -> None:
        deadline = time.monotonic() + 30
        readiness = getattr(self, role)._readiness
        while not reached(readiness):
            assert time.monotonic() < deadline, readiness.reasons
            time.sleep(0.05)


def words_of(readiness: Readiness) -> str:
    return "; ".join(readiness.reasons.values())


@pytest.fixture
def stores(tmp_path, toy_may_be_served):
    made = Stores(tmp_path)
    with made.federation:
        made.start()
        yield made
        made.stop()


def behind(service: DataServiceService | KeyTransformService) -> float:
    lines = service._metrics.render().decode().splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith("hre_behind ")]
    return float(value)


def restored(stores: Stores, role: str, releases: int) -> None:
    """Have a server go on from what it was so many releases ago."""
    stores.release()
    stores.stop()
    stores.copy(role)
    stores.start()
    for _ in range(releases):
        stores.release()
    stores.stop()
    stores.put_back(role)
    stores.start()


@pytest.mark.parametrize(("releases", "said"), [(1, "1 release"), (3, "3 releases")])
@pytest.mark.parametrize("role", ["dsp", "kts"])
def test_an_old_store_acknowledges_nothing_and_says_why(stores, role, releases, said):
    restored(stores, role, releases)
    words = stores.await_old(role)
    assert f"restored from an older copy: {said} behind" in words
    assert behind(getattr(stores, role)) == releases
    stores.await_old("dsp")
    with pytest.raises(AggregatorError):
        stores.push("p0")
    assert stores.sessions["p0"].pending == 1
    stores.stop()
    # The folder alone cannot tell.
    assert not check_store(stores.folder / role).findings


def test_a_kts_that_lacks_deposits_has_them_again_before_anything_is_signed(stores):
    stores.release()
    stores.stop()
    stores.copy("kts")
    stores.start()
    stores.push("p0", "p1")
    stores.stop()
    stores.put_back("kts")
    stores.start()
    stores.await_ready("dsp")
    stores.push("p2")
    for session in stores.sessions.values():
        session.pull()
    assert {session.version for session in stores.sessions.values()} == {2}
    assert {session.pending for session in stores.sessions.values()} == {0}


def test_a_kts_that_comes_back_with_an_old_store_is_noticed_by_a_running_dsp(stores):
    stores.release()
    stores.stop()
    stores.copy("kts")
    stores.start()
    stores.release()
    stores.kts_stack.close()
    stores.put_back("kts")
    stores.start_kts()
    with pytest.raises(AggregatorError):
        stores.push("p0")
    assert "it is at release 1, this server at 2" in stores.await_old("dsp")
    assert "1 release behind" in stores.await_old("kts")


@pytest.mark.parametrize("role", ["dsp", "kts"])
def test_a_server_exchanged_under_the_other_is_noticed_though_no_line_failed(
    stores, role
):
    service = getattr(stores, role)
    stores.release()
    old = service._role.state()
    # Whoever knows that release would be told apart by what its uploads name.
    stores.push(*NAMES)
    assert stores.sessions["p0"]._carrier.aggregator.status().version == 2
    kind, secret = type(service._role), stores.federation._secrets[role]
    service._role = kind(stores.federation.task, secret, Workers(), state=old)
    with pytest.raises(AggregatorError):
        stores.push("p0")
    assert "1 release behind" in stores.await_old(role)
    stores.await_old("dsp")
    with pytest.raises(AggregatorError):
        stores.push("p1")
    assert stores.sessions["p1"]._carrier.in_transit


def test_a_kts_that_comes_back_as_it_was_costs_no_upload(stores):
    stores.push("p0", "p1")
    stores.kts_stack.close()
    stores.start_kts()
    deadline = time.monotonic() + 30
    while (
        stores.sessions["p2"].pending == 0 or stores.sessions["p2"]._carrier.in_transit
    ):
        try:
            if stores.sessions["p2"]._carrier.in_transit:
                stores.sessions["p2"].resend()
            else:
                stores.push("p2")
        except AggregatorError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    for session in stores.sessions.values():
        session.pull()
    assert {session.version for session in stores.sessions.values()} == {1}
