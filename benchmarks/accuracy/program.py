"""The program: plan, train what is missing, summarise.

    python -m benchmarks.accuracy --reduced --out runs/accuracy-reduced
    python -m benchmarks.accuracy --full --out runs/accuracy
    python -m benchmarks.accuracy --full --out runs/accuracy --network mnist_cnn

Every training is written to `OUT/accuracy.json` as soon as it is finished. What is in
that file is not trained again, so an interrupted study goes on when the same command is
typed once more.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.accuracy.matrix import NETWORKS, Cell, cells_of, expected_seconds
from benchmarks.accuracy.page import markdown
from benchmarks.accuracy.plots import draw
from benchmarks.accuracy.records import Records
from benchmarks.accuracy.summary import Outcome, summarise
from benchmarks.accuracy.training import train_cell
from benchmarks.environment import describe
from hre_torch.errors import HREError

__all__ = ["main"]

_JSON: Final = "accuracy.json"
_PICTURE: Final = "accuracy.png"
_PAGE: Final = "accuracy.md"
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
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        records = Records(options.out / _JSON, environment, options.image_folder)
        for path in options.take_over:
            records.take_over(path)
        missing = [cell for cell in todo if records.get(cell) is None]
        print(_plan(matrix, todo, missing, options.jobs), flush=True)
        if options.plan:
            return 0
        status = 0
        try:
            for cell, record in _train([] if options.tables else missing, options):
                records.put(cell, record)
                told = f"{cell.key}: {_told(record)}, {record['seconds']:.0f} s"
                print(told, flush=True)
        except KeyboardInterrupt:
            status = _INTERRUPTED
            print("interrupted; the same command goes on", file=sys.stderr)
        records.write()
        found = [(cell, records.get(cell)) for cell in cells]
    except HREError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    outcomes = [Outcome(cell, record) for cell, record in found if record is not None]
    (options.out / _PICTURE).write_bytes(draw(outcomes))
    page = markdown(environment, outcomes, summarise(outcomes))
    (options.out / _PAGE).write_text(page)
    print(f"\n{page}")
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
    parser.add_argument("--device", default="cpu", help="of torch: cpu, cuda or cuda:N")
    parser.add_argument(
        "--take-over",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="add the trainings of another accuracy.json; may be given several times",
    )
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument(
        "--image-folder", help="CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--plan", action="store_true", help="say the hours and stop")
    only.add_argument(
        "--tables", action="store_true", help="train nothing, write what is there"
    )
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


def _train(
    cells: Sequence[Cell], options: argparse.Namespace
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Train cells, some at a time if wanted; yield each as soon as it is finished."""
    train = partial(_with_record, options.image_folder, options.device)
    if options.jobs == 1:
        yield from map(train, cells)
        return
    # Left by an interruption, the pool ends the trainings that are under way.
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        yield from pool.imap_unordered(train, cells)


def _with_record(
    image_folder: str | None, device: str, cell: Cell
) -> tuple[Cell, dict[str, Any]]:
    return cell, train_cell(cell, image_folder, device)


def _told(record: dict[str, Any]) -> str:
    if "curve" in record:
        return f"{100 * record['curve'][-1][1]:.2f} %"
    return "equal" if record["equal"] else "NOT EQUAL"
