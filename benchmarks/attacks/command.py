"""What `hre-torch attack` does, without its command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.attacks.catalogue import ATTACKS, play_all
from benchmarks.attacks.pictures import draw_inversion
from benchmarks.attacks.result import AttackResult

__all__ = ["attack", "report", "story", "table"]

_SHOWN: Final = 6
"""Values that are printed of what was recovered; the rest is only compared."""
_WIDEST: Final = 12
"""Characters of one value; a joint exponent has hundreds of digits."""


def attack(
    name: str,
    *,
    console: Console,
    suite: str | None = None,
    json_file: Path | None = None,
    pictures: Path | None = None,
    seed: int = 0,
    profile: str = "toy-insecure",
) -> bool:
    """Play attacks, say what came of each, and sum up.

    Args:
        name: `"A1"` to `"A17"`, or `"all"`.
        console: where to print.
        suite: only on this suite or weakened variant.
        json_file: where to write the list of results, if anywhere.
        pictures: where to draw the gradient inversion of A9, if anywhere.
        seed: seed of the updates.
        profile: modulus profile.

    Returns:
        Whether every attack did what it should.

    Raises:
        UnknownPluginError: there is no such attack, or it is not played there.
    """
    results = []
    for result in play_all(name, suite, seed=seed, profile=profile):
        console.print(story(result))
        results.append(result)
    console.print(table(results))
    if json_file is not None:
        json_file.write_text(json.dumps(report(results), indent=2) + "\n")
    if pictures is not None:
        console.print(f"pictures: {draw_inversion(pictures, seed=seed)}", markup=False)
    return all(result.as_expected for result in results)


def report(results: Iterable[AttackResult]) -> list[dict[str, Any]]:
    """Return results as a JSON document: one object per attack and target.

    `succeeded` and `expected` are booleans; `explanation` says why it is so.
    """
    return [
        {
            "attack": result.attack,
            "suite": result.suite,
            "scenario": result.scenario,
            "succeeded": result.succeeded,
            "expected": result.expected,
            "explanation": result.explanation,
            "refusals": list(result.refusals),
        }
        for result in results
    ]


def story(result: AttackResult) -> Text:
    """Return the course of one attack: recovered beside true values, refusals, why."""
    known = ATTACKS[result.attack]
    verdict = "succeeds" if result.succeeded else "fails"
    where = f"{result.suite}, {result.scenario}" if result.scenario else result.suite
    lines = [
        f"{result.attack} {known.title} ({known.who})",
        f"  on {where}: {verdict}",
        f"  recovered  {_glimpse(result.recovered)}",
        f"  true       {_glimpse(result.true)}",
        *(f"  refused    {refusal}" for refusal in result.refusals),
        f"  because    {result.explanation}",
        "",
    ]
    return Text("\n".join(lines))


def table(results: Iterable[AttackResult]) -> Table:
    """Return a table of what was played and whether it went as it should."""
    summary = Table(box=box.SIMPLE_HEAD)
    for heading in ("attack", "suite", "scenario", "outcome", "as expected"):
        summary.add_column(heading)
    for result in results:
        summary.add_row(
            result.attack,
            result.suite,
            result.scenario,
            "succeeds" if result.succeeded else "fails",
            "yes" if result.as_expected else "NO",
        )
    return summary


def _glimpse(values: tuple[int, ...] | None) -> str:
    if values is None:
        return "nothing"
    shown = " ".join(_short(value) for value in values[:_SHOWN])
    return f"{shown} ... ({len(values)} values)" if len(values) > _SHOWN else shown


def _short(value: int) -> str:
    digits = str(value)
    return digits if len(digits) <= _WIDEST else f"{digits[:_WIDEST]}..."
