"""The reconciler goes on, whatever an attempt met."""

from __future__ import annotations

import asyncio

import pytest

from hre_torch.errors import StoreError
from hre_torch.http_client import RetryPolicy
from hre_torch.servers import kts_client
from hre_torch.servers.kts_client import Reconciler, UnreachableError


@pytest.mark.parametrize(
    ("error", "level", "said"),
    [
        (UnreachableError("no KTS"), "WARNING", "no KTS"),
        (StoreError("the disk is full"), "ERROR", "the disk is full"),
        (KeyError("a secret"), "ERROR", ""),
    ],
)
def test_what_failed_is_tried_again_and_told(monkeypatch, caplog, error, level, said):
    monkeypatch.setattr(kts_client, "_PATIENCE", RetryPolicy(longest_pause=0.001))
    attempts, told = [], []

    async def errand():
        attempts.append(len(attempts))
        if len(attempts) == 1:
            raise error

    async def play():
        care = Reconciler(errand, told.append)
        care.start()
        async with asyncio.timeout(10):
            while told[1:] != [""]:
                await care.settled(1.0)
                await asyncio.sleep(0.001)
        await care.stop()

    with caplog.at_level("INFO", logger="hre_torch.services"):
        asyncio.run(play())
    assert len(attempts) == 2
    (record,) = caplog.records
    assert record.levelname == level
    assert record.hre_fields == {"reason": type(error).__name__, "message": said}
