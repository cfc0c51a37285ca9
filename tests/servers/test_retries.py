"""A participant outlives its servers, and says what it waits for or cannot heal."""

from __future__ import annotations

import itertools
import logging
import threading
import time

import httpx
import pytest

from hre_torch import http_client
from hre_torch.errors import AggregatorError
from hre_torch.http_client import LostError, Outage, RetryPolicy
from hre_torch.participant.carriers import BackgroundCarrier
from hre_torch.participant.http import HTTPAggregator
from hre_torch.participant.session import Session
from hre_torch.servers import running
from hre_torch.servers.serving import data_service, key_transform
from tests.servers.certificates import self_signed
from tests.servers.contract import federate, same

QUICK = RetryPolicy(first_pause=0.001, longest_pause=0.001)


class Absent(httpx.BaseTransport):
    """A way to a server that is gone for so many attempts."""

    def __init__(self, attempts: float, status: int = 0) -> None:
        self.attempts, self.status, self.seen = attempts, status, 0
        self._way = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.seen += 1
        if self.seen > self.attempts:
            return self._way.handle_request(request)
        if self.status:
            return httpx.Response(
                self.status,
                headers={"content-type": "text/plain"},
                stream=httpx.ByteStream(b"no"),
            )
        raise httpx.ConnectError("refused")

    def close(self) -> None:
        self._way.close()


@pytest.fixture
def link_through(serve_http, cleanup):
    """Connect a participant in an odd way: `link_through(transport, policy)`."""
    deployment = serve_http("plain")

    def make(transport, policy=QUICK, name="p0"):
        link = HTTPAggregator(
            name,
            url=deployment.url,
            task=deployment.federation.task,
            secret=deployment.federation._secrets[name],
            policy=policy,
            transport=transport,
        )
        cleanup.callback(link.close)
        return link

    make.deployment = deployment
    return make


def test_without_a_timeout_a_message_is_sent_again_for_ever():
    pauses = list(itertools.islice(RetryPolicy().pauses(), 1000))
    assert len(pauses) == 1000
    assert max(pauses) <= RetryPolicy().longest_pause
    assert min(pauses[10:]) >= RetryPolicy().longest_pause / 2
    assert len(set(pauses)) > 900


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_a_timeout_bounds_all_pauses_together(timeout):
    policy, waited = RetryPolicy(timeout=timeout, first_pause=0.01), 0.0
    for pause in policy.pauses():
        waited += pause
        time.sleep(pause)
    assert waited <= timeout


def test_a_dsp_that_is_gone_for_long_ends_nobody(link_through):
    link = link_through(Absent(100))
    assert link.status().version == 0


def test_a_person_reads_once_whom_we_wait_for_and_that_it_is_back(
    link_through, monkeypatch, caplog
):
    monkeypatch.setattr(http_client, "_TOLD_AFTER_SECONDS", 0)
    link = link_through(Absent(20))
    with caplog.at_level(logging.WARNING, logger="hre_torch"):
        link.status()
    first, last = caplog.messages
    assert "ConnectError: refused" in first
    assert "trying again" in first
    assert "answers again after" in last


def test_a_server_that_is_back_at_once_is_nothing_to_read_of(caplog):
    outage = Outage("the DSP")
    outage.lasts(LostError("gone"))
    outage.ends()
    assert caplog.messages == []


def test_a_closed_session_does_not_wait_for_a_dsp_that_is_gone(
    link_through, monkeypatch
):
    monkeypatch.setattr("hre_torch.participant.carriers._LAST_SECONDS", 0.1)
    federation = link_through.deployment.federation
    link = link_through(Absent(float("inf")), RetryPolicy(first_pause=60))
    session = Session(
        federation.task,
        federation._secrets["p0"],
        link,
        federation._initial,
        carrier=BackgroundCarrier(link),
    )
    session.push(same(1))
    closing = threading.Thread(target=session.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()


def test_a_clock_that_was_set_back_is_told_in_words(link_through):
    link = link_through(Absent(3, status=425), RetryPolicy(timeout=0))
    with pytest.raises(AggregatorError, match="clock of this machine was set back"):
        link.status()


@pytest.mark.parametrize(
    ("status", "words"), [(404, "check|404"), (405, "check the URL"), (413, "limit")]
)
def test_what_no_repetition_changes_is_not_repeated(link_through, status, words):
    transport = Absent(float("inf"), status=status)
    with pytest.raises(AggregatorError, match=words):
        link_through(transport).status()
    assert transport.seen == 1


def test_a_proxy_that_forgets_for_a_moment_who_is_behind_it_ends_nobody(link_through):
    transport = Absent(0)
    link = link_through(transport)
    link.status()
    transport.attempts, transport.status, transport.seen = 3, 404, 0
    link.status()
    assert transport.seen == 4


OTHERS = "192.0.2.1"


@pytest.mark.parametrize(
    ("how", "trusted", "words"),
    [
        ({}, False, "--ca FILE"),
        ({"days": (-9, -1)}, True, "has expired"),
        ({"days": (1, 9)}, True, "not valid yet; check the clock"),
        ({"address": OTHERS}, True, "another host name"),
    ],
    ids=["unknown", "expired", "early", "other"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_certificate_that_does_not_fit_is_told_in_words_and_not_tried_again(
    tmp_path, cleanup, toy_may_be_served, how, trusted, words
):
    certificate, private_key = self_signed(tmp_path, **how)
    tls = {"certificate": certificate, "private_key": private_key}
    federation = cleanup.enter_context(federate("plain"))
    task, secrets = federation.task, federation._secrets
    kts = key_transform(task, secrets["kts"])
    url = cleanup.enter_context(running.hosted(kts.app, task.parameters))
    dsp = data_service(task, secrets["dsp"], kts_url=url)
    url = cleanup.enter_context(running.hosted(dsp.app, task.parameters, **tls))
    link = HTTPAggregator(
        "p0",
        url=url,
        task=task,
        secret=secrets["p0"],
        ca_file=certificate if trusted else None,
        policy=QUICK,
    )
    cleanup.callback(link.close)
    with pytest.raises(AggregatorError, match=words):
        link.status()


def test_a_server_without_tls_is_told_in_words(serve_http, cleanup):
    deployment = serve_http("plain")
    link = HTTPAggregator(
        "p0",
        url=deployment.url.replace("http://", "https://"),
        task=deployment.federation.task,
        secret=deployment.federation._secrets["p0"],
        policy=QUICK,
    )
    cleanup.callback(link.close)
    with pytest.raises(AggregatorError, match="write its URL with http://"):
        link.status()
