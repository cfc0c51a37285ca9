"""Run directories such as training writes them, with numbers of a plausible size."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from functools import partial

import pytest

from hre_torch.app.report import write_report

# Milliseconds of one call at 2048 bit for a small network, as an estimate would say.
PHASES_MS = {
    "train": 1.9,
    "quantise": 0.4,
    "encrypt": 38.0,
    "submit": 1.2,
    "add": 0.7,
    "first_phase": 96.0,
    "second_phase": 151.0,
    "open": 44.0,
    "load": 0.6,
}


def _event(kind, **fields):
    return {"event": kind, **fields}


def _simulate(names, epochs, seed, cost, least=2):
    """Play asynchronous training; yield release and evaluation records."""
    luck = random.Random(seed)
    speeds = {name: luck.uniform(0.6, 1.6) for name in names}
    ready = {name: luck.random() for name in names}
    base = dict.fromkeys(names, 0)
    waiting, version = [], 0
    per_epoch = 40 * len(names)
    for step in range(1, epochs * per_epoch + 1):
        name = min(ready, key=ready.get)
        ready[name] += speeds[name] * luck.uniform(0.8, 1.2)
        seconds = step * cost["seconds"]
        waiting.append((name, base[name]))
        base[name] = version
        if len({who for who, _ in waiting}) >= least:
            yield _event(
                "release",
                version=version + 1,
                contributions=len(waiting),
                contributors=sorted({who for who, _ in waiting}),
                staleness=[version - known for _, known in waiting],
                global_step=step,
                seconds=seconds,
            )
            version, waiting = version + 1, []
        if step % (per_epoch // 4) == 0:
            epoch = step / per_epoch
            yield _event(
                "evaluation",
                global_step=step,
                epoch=epoch,
                simulated_time=step * 0.1,
                seconds=seconds,
                version=version,
                accuracy=0.97 - 0.85 * math.exp(-1.9 * epoch) + luck.gauss(0, 0.002),
                loss=0.1 + 2.2 * math.exp(-1.5 * epoch),
                bytes_up=step * cost["bytes"],
                bytes_down=2 * step * cost["bytes"],
            )


def _write_run(
    parent,
    name="digits-paper",
    *,
    suite="paper",
    participants=("p0", "p1", "p2", "p3"),
    epochs=3,
    seed=1,
    seconds=0.09,
    step_bytes=24_600,
    phases_ms=None,
    predicted=None,
    events=True,
    **changes,
):
    cost = {"seconds": seconds, "bytes": step_bytes}
    records = list(_simulate(list(participants), epochs, seed, cost))
    records = records if events else []
    kinds = Counter(record["event"] for record in records)
    last = next((r for r in reversed(records) if r["event"] == "evaluation"), None)
    steps = last["global_step"] if last else 0
    summary = {
        "suite": suite,
        "profile": "rsa2048" if suite == "paper" else "none",
        "participants": len(participants),
        "parameters": 2410,
        "pushes": steps,
        "pulls": steps,
        "releases": kinds["release"],
        "bytes_up": steps * step_bytes,
        "bytes_down": 2 * steps * step_bytes,
        "seconds": steps * seconds,
        "test_accuracy": last["accuracy"] if last else None,
        "phases_ms": PHASES_MS if phases_ms is None else phases_ms,
        "min_contributions": 2,
        "combine": "sum",
        "epochs": epochs,
        "weights_sha256": f"{seed:064x}",
        "hre_torch": "0.1.0",
    } | changes
    recipe = {"suite": suite, "participants": len(participants), "model": "mlp"}
    if predicted is None:
        predicted = {
            "bytes_up": 1.02 * summary["bytes_up"],
            "seconds": 0.9 * summary["seconds"],
            "table_bytes": 14_680_064,
            "phases_ms": {k: 0.93 * v for k, v in summary["phases_ms"].items()},
        }
    start = _event("start", recipe=recipe, parameters=2410, predicted=predicted)
    idle = [_event("pull", participant=name, releases=0) for name in participants]
    lines = [start, *idle, *records, _event("end", summary=summary)]
    directory = parent / name
    directory.mkdir(parents=True)
    (directory / "recipe.yaml").write_text(
        "".join(f"{key}: {value}\n" for key, value in recipe.items())
    )
    (directory / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def _write_plain(parent):
    """Write the `plain` twin of the run that `_write_run` writes by default."""
    return _write_run(
        parent,
        "digits-plain",
        suite="plain",
        seconds=0.004,
        step_bytes=5_900,
        phases_ms={"train": 1.9, "quantise": 0.4, "submit": 0.3, "add": 0.02},
        predicted={},
    )


@pytest.fixture
def make_run(tmp_path):
    """Write a realistic run directory and return its path."""
    return partial(_write_run, tmp_path)


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """Write the report of an encrypted run and of its `plain` twin, once for all."""
    parent = tmp_path_factory.mktemp("report")
    runs = [_write_run(parent), _write_plain(parent)]
    return write_report(runs, parent / "report")
