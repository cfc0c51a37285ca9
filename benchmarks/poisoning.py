"""Measures what poisoned updates do to accuracy, with a clip in the task and without.

    python -m benchmarks.poisoning --json benchmarks/results/poisoning.json \
        --markdown benchmarks/results/poisoning.md

Ten participants train `mnist_mlp` on MNIST in suite `plain`; the arithmetic of the
other suites is the same bit for bit. An attacker trains as everybody does, but seals
something else: the norm that the task asks of updates binds honest optimizers only, and
openers hold the whole sum to it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.environment import describe
from hre_torch.app.data.load import Data
from hre_torch.app.recipes import Recipe, load_recipe
from hre_torch.app.training.assembly import load_recipe_data
from hre_torch.app.training.runner import Runner
from hre_torch.encoding.fixed_point import FixedPoint
from hre_torch.participant.session import Session
from hre_torch.protocol.suite import Integers

__all__ = ["ATTACKS", "Outcome", "main", "page", "run"]

_FORMAT: Final = "hre_torch poisoning 1"
_RECIPE: Final = (
    "suite=plain",
    "workers=1",
    "participants=10",
    "min_contributions=8",
    "train.epochs=3",
    "train.batch_size=64",
    "train.lr=0.05",
    "train.pull_every=5",
    "train.speeds=null",
    "train.evaluate_every=3",
)
_HALF: Final = 0.5
_ONCE: Final = 50
"""Which upload; each participant makes 57."""

Forge = Callable[[Integers, int, Session, float], Integers]
"""From an honest upload, its number, the session and the clip to what is sealed."""


def _flipped(values: Integers, number: int, session: Session, clip: float) -> Integers:
    return -values


def _long(values: Integers, number: int, session: Session, clip: float) -> Integers:
    """Flip, at half of the length that the bound on a sum of t uploads allows."""
    point = session.fixed_point
    norm = float(np.linalg.norm(values.astype(np.float64)))
    factor = _HALF * clip * point.scale / max(norm, 1.0)
    return _within(values * -factor, point)


def _tenfold(values: Integers, number: int, session: Session, clip: float) -> Integers:
    return _within(values * -10.0, session.fixed_point)


def _minus_half(
    values: Integers, number: int, session: Session, clip: float
) -> Integers:
    """Upload -0.5 everywhere, once, near the end; train honestly before and after."""
    if number != _ONCE:
        return values
    return np.full_like(values, -session.fixed_point.limit)


@dataclass(frozen=True)
class Attack:
    """Who does what.

    Attributes:
        words: for the table.
        attackers: how many of the ten.
        forge: what they seal.
    """

    words: str
    attackers: int = 0
    forge: Forge = _flipped


ATTACKS: Final = {
    "none": Attack("nobody attacks"),
    "flip-1": Attack("1 of 10 flips the sign of its updates", 1),
    "flip-2": Attack("2 of 10 flip the sign of their updates", 2),
    "tenfold-1": Attack("1 of 10 flips the sign, and ten times as long", 1, _tenfold),
    "long-1": Attack(
        "1 of 10 flips the sign, at half of what the bound allows", 1, _long
    ),
    "half-once": Attack("1 of 10 uploads -0.5 everywhere, once", 1, _minus_half),
}


@dataclass(frozen=True)
class Outcome:
    """One training.

    Attributes:
        attack: key of `ATTACKS`.
        clip: the task's, or None.
        accuracy: of the released weights at the end, on the test images.
        releases: that were signed.
        rejected: that everybody rejected.
        seconds: of the processor.
    """

    attack: str
    clip: float | None
    accuracy: float
    releases: int
    rejected: int
    seconds: float


def run(
    attack: str, clip: float, *, enforced: bool, data: Data, recipe: Recipe
) -> Outcome:
    """Train once.

    Args:
        attack: key of `ATTACKS`.
        clip: C, also where it is not enforced: one attack aims at it.
        enforced: whether the task has it.
        data: the recipe's.
        recipe: without a clip.
    """
    chosen = ATTACKS[attack]
    if enforced:
        recipe = recipe.model_copy(update={"clip": clip})
    started = time.process_time()
    with Runner(recipe, data) as runner:
        for learner in runner.learners[: chosen.attackers]:
            _corrupt(learner.session, chosen.forge, clip)
        for _ in runner.steps():
            pass
        totals = runner.totals()
        accuracy = runner.score.accuracy if runner.score else 0.0
    return Outcome(
        attack,
        clip if enforced else None,
        accuracy,
        totals["releases"],
        totals["rejected"],
        time.process_time() - started,
    )


def _corrupt(session: Session, forge: Forge, clip: float) -> None:
    """Have a participant seal forged values; its own model knows the honest ones."""
    participant: Any = session._participant
    seal = participant.seal
    # An attacker leaves out the check that keeps an honest one from spoiling releases.
    participant._check_values = lambda values: None

    def sealed(values: Integers, *others: Any) -> Any:
        number = participant.state().sequence
        forged = forge(values, number, session, clip)
        return seal(np.asarray(forged, dtype=np.int32), *others)

    participant.seal = sealed


def _within(values: np.ndarray[Any, Any], point: FixedPoint) -> Integers:
    return np.clip(np.rint(values), -point.limit, point.limit).astype(np.int32)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    environment = describe(arguments, program="-m benchmarks.poisoning")
    recipe = load_recipe("mnist_mlp", [*_RECIPE, "clip=null", *options.override])
    data = load_recipe_data(recipe)
    outcomes = []
    for attack in options.attacks:
        for enforced in (False, True):
            outcome = run(
                attack, options.clip, enforced=enforced, data=data, recipe=recipe
            )
            outcomes.append(outcome)
            print(outcome, file=sys.stderr, flush=True)
    text = page(environment, outcomes)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        document = {
            "format": _FORMAT,
            "environment": environment,
            "recipe": recipe.to_yaml(),
            "outcomes": [asdict(outcome) for outcome in outcomes],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


def page(environment: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return the table, with the machine and the command."""
    clip = next((o.clip for o in outcomes if o.clip is not None), None)
    machine, versions = environment["machine"], environment["versions"]
    lines = [
        "# Poisoned updates",
        "",
        f"`{environment['command']}`, {machine['cpu']}, {machine['cores']} cores, "
        f"torch {versions['torch']}, {environment['date'][:10]}; one seed. "
        "`mnist_mlp`, ten participants, t = 8, three epochs, suite `plain`.",
        "",
        f"| | accuracy without a clip | with clip = {clip} | releases rejected |",
        "| --- | ---: | ---: | ---: |",
    ]
    for attack, chosen in ATTACKS.items():
        found = {o.clip is not None: o for o in outcomes if o.attack == attack}
        if len(found) == 2:
            without, with_ = found[False], found[True]
            lines.append(
                f"| {chosen.words} | {100 * without.accuracy:.1f} % | "
                f"{100 * with_.accuracy:.1f} % | {with_.rejected} of {with_.releases} |"
            )
    return "\n".join([*lines, ""])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.poisoning",
        description="What poisoned updates do to accuracy.",
    )
    parser.add_argument("--clip", type=float, default=1.0, help="L2 bound of an update")
    parser.add_argument(
        "--attacks",
        type=lambda text: text.split(","),
        default=list(ATTACKS),
        help="some of the attacks, separated by commas",
    )
    parser.add_argument(
        "-o",
        dest="override",
        action="append",
        default=[],
        help="key=value of the recipe; may be given several times",
    )
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--markdown", type=Path, help="file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
