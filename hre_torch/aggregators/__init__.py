"""Backends that carry messages, by name.

An aggregator plug-in is a callable `factory(name, **options) -> Aggregator` that opens
the connection of the participant `name`. A third party adds one with
`AGGREGATORS.register("name")(factory)`, or by an entry point of the group
`hre_torch.aggregators`:

>>> from hre_torch.aggregators.local import LocalAggregator
>>> @AGGREGATORS.register("counting-example")
... class CountingAggregator(LocalAggregator):
...     uploads = 0
...
...     def submit(self, upload):
...         CountingAggregator.uploads += 1
...         return super().submit(upload)
>>> "counting-example" in AGGREGATORS.names()
True
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hre_torch.protocol.aggregator import Aggregator
from hre_torch.registry import Registry

__all__ = ["AGGREGATORS"]

AGGREGATORS: Final[Registry[Callable[..., Aggregator]]] = Registry(
    "aggregator",
    "hre_torch.aggregators",
    {
        "http": "hre_torch.aggregators.http:HTTPAggregator",
        "local": "hre_torch.aggregators.local:LocalAggregator",
    },
)
