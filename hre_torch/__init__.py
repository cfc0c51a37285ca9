"""Federated training for PyTorch in which no server can read one participant's update.

The public names are loaded when they are first used, so that the server roles can be
imported where torch is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hre_torch.errors import HREError

if TYPE_CHECKING:
    from hre_torch.app.recipes import Recipe, load_recipe
    from hre_torch.app.run.simulation import simulate
    from hre_torch.app.run.surroundings import join, share
    from hre_torch.integrations.lightning import HRECallback
    from hre_torch.optim.federation import Federation
    from hre_torch.optim.optimizer import HREOptimizer
    from hre_torch.participant.connection import connect

__version__ = "0.1.0"

__all__ = [
    "Federation",
    "HRECallback",
    "HREError",
    "HREOptimizer",
    "Recipe",
    "__version__",
    "connect",
    "join",
    "load_recipe",
    "share",
    "simulate",
]

_HOME = {
    "Federation": "hre_torch.optim.federation",
    "HRECallback": "hre_torch.integrations.lightning",
    "HREOptimizer": "hre_torch.optim.optimizer",
    "Recipe": "hre_torch.app.recipes",
    "connect": "hre_torch.participant.connection",
    "join": "hre_torch.app.run.surroundings",
    "load_recipe": "hre_torch.app.recipes",
    "share": "hre_torch.app.run.surroundings",
    "simulate": "hre_torch.app.run.simulation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hre_torch' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
