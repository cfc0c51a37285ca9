"""The ClientApp: one participant's session, against servers that Flower never sees."""

from __future__ import annotations

import json
import time
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hre_torch.app.node import NodeFiles, open_session
from hre_torch.app.participation import train_participant
from hre_torch.integrations.flower import reply_with, turn_of
from hre_torch.participant.connection import write_weights

app = ClientApp()


@app.train("session")
def session(message: Message, context: Context) -> Message:
    """Train this participant's share and reply with numbers.

    Put a training loop of your own in the place of `train_participant`: whatever steps
    an `HREOptimizer(inner, session)` trains together with the others.
    """
    started = time.monotonic()
    turn = turn_of(message)
    files = NodeFiles.of(context.node_config, context.run_config)
    recipe = files.load_recipe(str(context.run_config["overrides"]))
    background = bool(context.run_config["background"])
    memory = files.memory()
    with open_session(files, memory, background=background) as session:
        done = train_participant(
            recipe,
            session,
            show,
            part=turn.number,
            parts=turn.of,
            memory=memory,
        )
        statistics = session.statistics
    if files.out is not None:
        write_weights(files.out, done.weights)
    if memory is not None and turn.number + 1 == turn.of:
        memory.forget()
    return reply_with(
        message,
        {
            "accuracy": done.accuracy,
            "version": done.version,
            "pushes": statistics.pushes,
            "bytes_up": statistics.bytes_up,
            "bytes_down": statistics.bytes_down,
            "seconds": round(time.monotonic() - started, 3),
        },
    )


def show(record: dict[str, Any]) -> None:
    """Write one line of JSON into the SuperNode's log."""
    print(json.dumps(record), flush=True)  # noqa: T201
