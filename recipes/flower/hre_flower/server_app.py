"""The ServerApp: starts sessions and shows their numbers. It holds no secret."""

from __future__ import annotations

import json
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from hre_torch.integrations.flower import Launch, Turn, launch_sessions

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Start a session on every SuperNode, turn after turn."""
    config = context.run_config
    launch = Launch(
        participants=int(config["participants"]),
        patience=float(config["patience"]),
    )
    turns = int(config["turns"])
    for number in range(turns):
        ends = launch_sessions(grid, launch, show, Turn(number, turns))
        accuracies = [end.metrics["accuracy"] for end in ends]
        show(
            {
                "event": "turn end",
                "turn": number,
                "sessions": len(ends),
                "accuracy": sum(accuracies) / len(accuracies),
            }
        )


def show(record: dict[str, Any]) -> None:
    """Write one line of JSON, which `flwr run --stream` and `flwr log` show."""
    print(json.dumps(record), flush=True)  # noqa: T201
