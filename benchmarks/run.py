"""Measure suites and peers on one workload; write JSON and a Markdown table.

For example:

    python benchmarks/run.py --suites paper,phong,plain --peers phe,tenseal --json FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

# `python benchmarks/run.py` puts this folder on the path, not the one above.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.environment import describe
from benchmarks.measure import Patience, Record, check_threads, measure_apart
from benchmarks.peers import PEERS
from benchmarks.suites import SuiteSystem
from benchmarks.system import SystemFactory
from benchmarks.table import markdown
from benchmarks.workload import Workload
from hre_torch.crypto.modulus import load_profile
from hre_torch.errors import ConfigurationError
from hre_torch.protocol.suites import SUITES

__all__ = ["find_systems", "main"]

_FORMAT: Final = "hre_torch benchmark 1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    try:
        systems = find_systems(options.suites, options.peers)
        _check(options)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    environment = describe(arguments)
    patience = Patience(options.rounds, options.budget)
    records: list[Record] = []
    for values in options.values:
        workload = Workload(values, options.profile, options.threads)
        for label, factory in systems:
            print(f"{label}, {values:,} values ...", file=sys.stderr)
            records += measure_apart(factory, workload, patience)
    page = markdown(environment, records)
    print(page)
    if options.markdown:
        options.markdown.write_text(page, encoding="utf-8")
    if options.json:
        options.json.write_text(_document(environment, records), encoding="utf-8")
    return 0


def find_systems(
    suites: Sequence[str], peers: Sequence[str]
) -> list[tuple[str, SystemFactory]]:
    """Return a label and a factory for every system asked for, suites first.

    Raises:
        UnknownPluginError: no suite or peer has that name.
        MissingExtraError: a peer's package is not installed.
    """
    for name in suites:
        SUITES.get(name)
    found: list[tuple[str, SystemFactory]] = [
        (f"suite {name}", partial(SuiteSystem, name)) for name in suites
    ]
    for name in peers:
        systems = PEERS.get(name)
        found += [
            (f"peer {name} ({index} of {len(systems)})", factory)
            for index, factory in enumerate(systems, start=1)
        ]
    if not found:
        raise ConfigurationError("there is nothing to measure; name suites or peers")
    return found


def _document(environment: Mapping[str, Any], records: Sequence[Record]) -> str:
    content = {
        "format": _FORMAT,
        "environment": environment,
        "records": [asdict(record) for record in records],
    }
    return json.dumps(content, indent=1) + "\n"


def _check(options: argparse.Namespace) -> None:
    load_profile(options.profile)
    check_threads(options.threads)
    if options.rounds < 1 or not options.values or min(options.values) < 1:
        raise ConfigurationError(
            f"rounds is {options.rounds} and values is {options.values}; all of them "
            "must be at least 1"
        )
    for path in filter(None, (options.json, options.markdown)):
        if not path.parent.is_dir():
            raise ConfigurationError(
                f"there is no folder {path.parent}; make it, or write elsewhere"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure suites and peers on one workload."
    )
    add = parser.add_argument
    add("--suites", type=_names, default="paper,phong,plain", help="comma-separated")
    add("--peers", type=_names, default="phe,tenseal", help="comma-separated")
    add("--values", type=_numbers, default="109386", help="one or several lengths")
    add("--profile", default="demo3072", help="modulus profile, name or path")
    add("--threads", type=int, default=1, help="cores that each system may use")
    add("--rounds", type=int, default=Patience.rounds, help="rounds to measure")
    add("--budget", type=float, default=Patience.budget, help="seconds per system")
    add("--json", type=Path, help="file for the records")
    add("--markdown", type=Path, help="file for the table")
    return parser


def _names(text: str) -> list[str]:
    names = (name.strip() for name in text.split(","))
    return list(dict.fromkeys(filter(None, names)))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in _names(text)]


if __name__ == "__main__":
    sys.exit(main())
