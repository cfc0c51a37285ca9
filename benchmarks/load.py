"""Measures real servers on loopback: what a push costs, and how many they bear.

    python -m benchmarks.load --json benchmarks/results/load.json \
        --markdown benchmarks/results/load.md

Both servers are processes of their own with stores on the disk; suite `hybrid`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Final

from benchmarks.crowd import Crowd, measure_crowd
from benchmarks.environment import describe
from benchmarks.push import PushCosts, measure_pushes

__all__ = ["main", "page"]

_FORMAT: Final = "hre_torch load 1"
_CROWDS: Final = ("64x200x1000", "8x20x1000000")
_MOST_ADDED_MS: Final = 25.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return 1 if a participant met an error."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    environment = describe(arguments, program="-m benchmarks.load")
    pushes = None
    if options.rounds:
        print("push ...", file=sys.stderr)
        pushes = measure_pushes(
            options.values,
            options.rounds,
            profile=options.profile,
            folder=options.folder,
        )
    crowds = []
    for crowd in options.crowds:
        print(f"{crowd} ...", file=sys.stderr)
        participants, releases, values = map(int, crowd.split("x"))
        crowds.append(
            measure_crowd(
                participants,
                releases,
                values,
                profile=options.profile,
                folder=options.folder,
            )
        )
    text = page(environment, pushes, crowds)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        document = {
            "format": _FORMAT,
            "environment": environment,
            "push": None if pushes is None else pushes.record(),
            "crowds": [crowd.record() for crowd in crowds],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if any(crowd.errors for crowd in crowds) else 0


def page(
    environment: Mapping[str, Any],
    pushes: PushCosts | None,
    crowds: Sequence[Crowd],
) -> str:
    """Return the whole page as Markdown."""
    machine = environment["machine"]
    versions = environment["versions"]
    lines = [
        "# Real servers on loopback",
        "",
        f"`{environment['command']}` on {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_mib']} MiB, {machine['system']}, gmpy2 "
        f"{versions['gmpy2']}; {environment['date']}, commit "
        f"{(environment['git_commit'] or '?')[:10]}. Load of the machine when it began "
        f"(others at work): {machine['load_before']}.",
    ]
    if pushes is not None:
        lines += ["", *_push_lines(pushes)]
    if crowds:
        lines += ["", *_crowd_lines(crowds)]
    return "\n".join(lines) + "\n"


def _push_lines(pushes: PushCosts) -> list[str]:
    record = pushes.record()
    lines = [
        f"## One push of {pushes.values:,} values, `hybrid`",
        "",
        f"Medians of {pushes.pushes} pushes each, sealing included.",
        "",
        "| where the servers are | ms |",
        "|---|---:|",
        f"| in this process, no store | {pushes.in_process:.1f} |",
        f"| on loopback, stores on the disk | {pushes.loopback:.1f} |",
        f"| added (at most {_MOST_ADDED_MS:.0f} wanted) | {pushes.added:.1f} |",
    ]
    if pushes.loopback_in_memory is not None:
        lines += [
            f"| on loopback, stores in memory | {pushes.loopback_in_memory:.1f} |",
            f"| waiting for the disk, {record['disk_share']:.0%} of the push | "
            f"{record['disk']:.1f} |",
        ]
    return lines


def _crowd_lines(crowds: Sequence[Crowd]) -> list[str]:
    rows: list[tuple[str, str, str]] = [
        ("uploads", "uploads", ",.0f"),
        ("errors", "errors", ",.0f"),
        ("seconds", "seconds", ",.0f"),
        ("uploads per second", "uploads_per_second", ".1f"),
        ("releases per second", "releases_per_second", ".2f"),
        ("push, median, ms", "push_ms_p50", ",.0f"),
        ("push, 99 %, ms", "push_ms_p99", ",.0f"),
        ("push to opened release, median, ms", "release_ms_p50", ",.0f"),
        ("push to opened release, 99 %, ms", "release_ms_p99", ",.0f"),
        ("DSP, most resident MiB", "dsp_peak_mib", ",.0f"),
        ("KTS, most resident MiB", "kts_peak_mib", ",.0f"),
        ("DSP, MiB per 100 releases", "dsp_mib_per_100_releases", ".2f"),
        ("KTS, MiB per 100 releases", "kts_mib_per_100_releases", ".2f"),
    ]
    records = [crowd.record() | {"errors": len(crowd.errors)} for crowd in crowds]
    heads = [
        f"{crowd.participants} participants x {crowd.releases} releases x "
        f"{crowd.values:,} values"
        for crowd in crowds
    ]
    lines = [
        "## Crowds",
        "",
        "Participants are threads of two processes on the same machine; each pushes, "
        "waits until a release holds its update, and pushes again. Growth is that of "
        "the second half of a run.",
        "",
        f"| | {' | '.join(heads)} |",
        f"|---|{'---:|' * len(crowds)}",
    ]
    for label, key, style in rows:
        cells = " | ".join(
            "run too short" if record[key] is None else format(record[key], style)
            for record in records
        )
        lines.append(f"| {label} | {cells} |")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=20, help="of pushes; 0 for none")
    parser.add_argument("--values", type=int, default=109_386, help="of a push")
    parser.add_argument(
        "--crowds",
        nargs="*",
        default=_CROWDS,
        metavar="PxRxN",
        help="participants x releases x values",
    )
    parser.add_argument("--profile", default="rsa2048")
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
