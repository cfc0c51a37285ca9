"""Steps of a role: what fails half-way is not what the next step goes on from."""

from __future__ import annotations

import asyncio

import pytest

from hre_torch.errors import MessageError, StoreError
from hre_torch.servers.steps import InMemory, Steps


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "made_again"),
    [(MessageError("no"), 0), (StoreError("full"), 1), (MemoryError(), 1)],
)
def test_the_role_is_made_again_after_anything_but_a_refusal(error, made_again):
    opened = []
    steps = Steps(InMemory(), lambda: opened.append(1))

    async def play() -> None:
        with pytest.raises(type(error)):
            await steps.run(fail, error)
        assert opened == []
        for _ in range(2):
            assert await steps.run(len, "abc") == 3

    asyncio.run(play())
    steps.close()
    assert len(opened) == made_again
