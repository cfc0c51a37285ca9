"""Numbers of small tasks, as `TaskOptions` fills them in."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from hre_torch.crypto.dcr.modulus import Parameters, load_profile
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.protocol.roster import Roster
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import TaskConfig
from hre_torch.protocol.task_options import TaskOptions
from hre_torch.protocol.vectors import state_digest


def config_for(
    roster: Roster,
    parameters: Parameters,
    initial: np.ndarray,
    *,
    pending_limit: int | None = None,
    **options: Any,
) -> TaskConfig:
    """Return a task over a flat vector like `initial`; Q may be chosen, too."""
    config = TaskOptions.of({"profile": parameters.name} | options).config(
        roster,
        parameters,
        n_params=initial.size,
        layout_digest=bytes(32),
        initial_digest=state_digest(initial),
    )
    if pending_limit is None:
        return config
    return msgspec.structs.replace(config, pending_limit=pending_limit)


def plain_config(names: tuple[str, ...], n_values: int, **options: Any) -> TaskConfig:
    """Return a task of suite `plain` whose keys nobody keeps."""
    parameters = load_profile("toy-insecure")
    _, roster = SUITES.get("plain").setup(
        names, parameters, operator=SigningKey(bytes(32)).public
    )
    initial = np.zeros(n_values, dtype=np.int64)
    return config_for(roster, parameters, initial, suite="plain", **options)
