"""The program: measure, judge, draw, write."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from benchmarks.environment import describe
from benchmarks.measure import Patience, Record, measure_apart
from benchmarks.options import parse, plan
from benchmarks.plots import draw
from benchmarks.table import markdown
from benchmarks.targets import Verdict, judge
from hre_torch.errors import HREError

__all__ = ["main"]

_FORMAT: Final = "hre_torch benchmark 2"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parse(arguments)
        jobs = plan(options)
    except HREError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    environment = describe(arguments)
    patience = Patience(options.rounds, options.budget)
    records: list[Record] = []
    for job in jobs:
        print(f"{job.label} ...", file=sys.stderr)
        records += measure_apart(job.factory, job.workloads, patience)
    verdicts = judge(records)
    pictures = draw(environment, records, options.plots) if options.plots else []
    page = markdown(environment, records, verdicts, pictures)
    print(page)
    if options.markdown:
        options.markdown.write_text(page, encoding="utf-8")
    if options.json:
        document = _document(environment, records, verdicts)
        options.json.write_text(document, encoding="utf-8")
    return 0


def _document(
    environment: Mapping[str, Any],
    records: Sequence[Record],
    verdicts: Sequence[Verdict],
) -> str:
    content = {
        "format": _FORMAT,
        "environment": environment,
        "records": [asdict(record) for record in records],
        "targets": [asdict(verdict) for verdict in verdicts],
    }
    return json.dumps(content, indent=1) + "\n"
