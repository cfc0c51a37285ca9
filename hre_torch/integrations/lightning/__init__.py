"""Federates a Lightning module that does not know of it.

`callback` is what people use. `refusals` says what cannot be federated, `watch` stops a
training that goes past the wrapped optimizer, `checkpoints` compares a checkpoint with
the session, and `schedulers` keeps Lightning's schedulers attached, `scalars` logs.
"""

from hre_torch.integrations.lightning.callback import HRECallback

__all__ = ["HRECallback"]
