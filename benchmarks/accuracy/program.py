"""The program: plan, train what is missing, summarise.

    python -m benchmarks.accuracy --reduced --out runs/accuracy-reduced
    python -m benchmarks.accuracy --full --out runs/accuracy
    python -m benchmarks.accuracy --full --out runs/accuracy --network mnist_cnn

Every training leaves a file in `OUT/cells/`. What has one is not trained again, so an
interrupted study goes on when the same command is typed once more.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.accuracy.matrix import NETWORKS, Cell, cells_of, expected_seconds
from benchmarks.accuracy.page import markdown
from benchmarks.accuracy.plots import draw
from benchmarks.accuracy.summary import Outcome, summarise
from benchmarks.accuracy.training import FORMAT, train_cell
from benchmarks.environment import describe
from hre_torch.durable_files import replace_file
from hre_torch.errors import HREError

__all__ = ["main"]

_STEM: Final = "accuracy"
_INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options = parser.parse_args(arguments)
    matrix: Literal["reduced", "full"] = "full" if options.full else "reduced"
    environment = describe(arguments, program="-m benchmarks.accuracy")
    cells = cells_of(matrix)
    todo = [c for c in cells if c.case.network in (options.network or NETWORKS)]
    if not todo:
        parser.error(
            f"the {matrix} matrix trains none of {options.network}; use --full"
        )
    folder = options.out / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        missing = [c for c in todo if _read(folder, c, options.image_folder) is None]
        print(_plan(matrix, todo, missing, options.jobs), flush=True)
        if options.plan:
            return 0
        status = 0
        try:
            for cell, record in _train(missing, options.image_folder, options.jobs):
                replace_file(_path(folder, cell), json.dumps(record, indent=1).encode())
                told = f"{cell.key}: {_told(record)}, {record['seconds']:.0f} s"
                print(told, flush=True)
        except KeyboardInterrupt:
            status = _INTERRUPTED
            print("interrupted; the same command goes on", file=sys.stderr)
        records = [(c, _read(folder, c, options.image_folder)) for c in cells]
    except HREError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    outcomes = [Outcome(cell, record) for cell, record in records if record is not None]
    _write(options.out, environment, outcomes)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description="How accurate federated models are, beside baselines.",
    )
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--reduced", action="store_true", help="MNIST alone, few seeds")
    size.add_argument("--full", action="store_true", help="the whole study, hours")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of results; resumed if there"
    )
    parser.add_argument(
        "--network",
        action="append",
        choices=NETWORKS,
        help="train what is missing of this network alone; may be given several times",
    )
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument(
        "--image-folder", help="CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg"
    )
    parser.add_argument("--plan", action="store_true", help="say the hours and stop")
    return parser


def _plan(
    matrix: str, cells: Sequence[Cell], missing: Sequence[Cell], jobs: int
) -> str:
    hours: dict[str, float] = {}
    for cell in missing:
        network = cell.case.network
        hours[network] = hours.get(network, 0.0) + expected_seconds(cell) / 3600 / jobs
    parts = ", ".join(f"{network} {h:.2f}" for network, h in hours.items())
    return (
        f"{matrix}: {len(cells)} trainings, {len(cells) - len(missing)} done; about "
        f"{sum(hours.values()):.2f} hours with {jobs} at a time ({parts})"
    )


def _path(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.key}.json"


def _read(folder: Path, cell: Cell, image_folder: str | None) -> dict[str, Any] | None:
    """Return a cell's record, unless it is missing or that of another recipe."""
    try:
        record: dict[str, Any] = json.loads(_path(folder, cell).read_text())
    except FileNotFoundError:
        return None
    same = record["recipe"] == cell.recipe(image_folder).to_yaml()
    return record if same and record["format"] == FORMAT else None


def _train(
    cells: Sequence[Cell], image_folder: str | None, jobs: int
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Train cells, some at a time if wanted; yield each as soon as it is finished."""
    if jobs == 1:
        yield from ((cell, train_cell(cell, image_folder)) for cell in cells)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as executor:
        futures = {executor.submit(train_cell, c, image_folder): c for c in cells}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def _told(record: dict[str, Any]) -> str:
    if "curve" in record:
        return f"{100 * record['curve'][-1][1]:.2f} %"
    return "equal" if record["equal"] else "NOT EQUAL"


def _write(out: Path, environment: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    rows = summarise(outcomes)
    document = {
        "format": FORMAT,
        "environment": environment,
        "cells": [outcome.record for outcome in outcomes],
    }
    (out / f"{_STEM}.json").write_text(json.dumps(document, indent=1) + "\n")
    (out / f"{_STEM}.png").write_bytes(draw(outcomes))
    page = markdown(environment, outcomes, rows)
    (out / f"{_STEM}.md").write_text(page)
    print(f"\n{page}")
