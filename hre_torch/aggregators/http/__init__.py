"""The backend over HTTP: participants here, a DSP elsewhere.

exchange.py     sends a message until a signed answer to it comes back
aggregator.py   one participant's connection
prefetch.py     downloads, fetched before anybody asks for them
background.py   a session whose uploads travel while training goes on
snapshots.py    the released weights, sealed for a participant that comes late
newcomer.py     one that comes late, and what it believes
"""

from __future__ import annotations

from hre_torch.aggregators.http.aggregator import HTTPAggregator
from hre_torch.aggregators.http.background import BackgroundSession
from hre_torch.aggregators.retries import RetryPolicy

__all__ = ["BackgroundSession", "HTTPAggregator", "RetryPolicy"]
