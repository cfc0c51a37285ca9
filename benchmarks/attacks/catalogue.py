"""All attacks by name, and how to play one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks.attacks import (
    a01_single_upload,
    a02_answer_on_the_wire,
    a03_consecutive_states,
    a04_false_head,
    a05_chosen_power,
    a06_cancelled_upload,
    a07_spoiled_sum,
    a08_dealer,
    a09_two_downloads,
    a10_rogue_key,
    a11_two_models,
    a12_signs,
    a13_ring,
    a14_two_models_for_good,
    a15_lying_refusal,
    a16_first_word,
    a17_suite_downgrade,
)
from benchmarks.attacks.result import Attack, AttackResult, Target
from hre_torch.errors import UnknownPluginError
from hre_torch.registry import nearest

__all__ = ["ATTACKS", "find_attack", "play", "play_all", "run_attack", "select"]

ATTACKS: Final[dict[str, Attack]] = {
    module.ATTACK.name: module.ATTACK
    for module in (
        a01_single_upload,
        a02_answer_on_the_wire,
        a03_consecutive_states,
        a04_false_head,
        a05_chosen_power,
        a06_cancelled_upload,
        a07_spoiled_sum,
        a08_dealer,
        a09_two_downloads,
        a10_rogue_key,
        a11_two_models,
        a12_signs,
        a13_ring,
        a14_two_models_for_good,
        a15_lying_refusal,
        a16_first_word,
        a17_suite_downgrade,
    )
}
"""Attacks by name, `"A1"` to `"A17"`."""


def find_attack(name: str) -> Attack:
    """Return an attack; `A4`, `a4` and `a04` are the same.

    Raises:
        UnknownPluginError: there is no such attack.
    """
    number = name[1:].lstrip("0")
    wanted = f"{name[:1].upper()}{number}"
    if wanted not in ATTACKS:
        raise UnknownPluginError(
            f"there is no attack named {name!r}: {nearest(wanted, list(ATTACKS))}"
        )
    return ATTACKS[wanted]


def select(name: str, suite: str | None = None) -> list[tuple[Attack, Target]]:
    """Return the attacks and targets that a name and a suite stand for.

    Args:
        name: an attack, or `"all"`.
        suite: a suite or weakened variant, exactly; None for every target.

    Raises:
        UnknownPluginError: there is no such attack, or it is not played there.
    """
    attacks = list(ATTACKS.values()) if name == "all" else [find_attack(name)]
    pairs = [(attack, target) for attack in attacks for target in attack.targets]
    chosen = [(a, target) for a, target in pairs if suite in (None, target.suite)]
    if not chosen:
        played = list(dict.fromkeys(target.suite for _, target in pairs))
        raise UnknownPluginError(
            f"attack {name!r} is not played on {suite!r}: {nearest(str(suite), played)}"
        )
    return chosen


def play(attack: Attack, target: Target, *, seed: int, profile: str) -> AttackResult:
    """Play one attack on one of its targets."""
    outcome = attack.run(target, seed, profile)
    return AttackResult(
        attack=attack.name,
        suite=target.suite,
        scenario=target.scenario,
        succeeded=outcome.succeeded,
        expected=target.expected,
        recovered=outcome.recovered,
        true=outcome.true,
        refusals=outcome.refusals,
        explanation=target.because,
    )


def run_attack(
    name: str,
    suite: str,
    *,
    scenario: str | None = None,
    seed: int = 0,
    profile: str = "toy-insecure",
) -> AttackResult:
    """Play one attack on one suite.

    Args:
        name: `"A1"` to `"A17"`.
        suite: a suite, or a weakened variant such as `"paper without sigma"`.
        scenario: which of several settings on that suite; the first by default.
        seed: seed of the updates; keys and masks are always fresh.
        profile: modulus profile.

    Raises:
        UnknownPluginError: there is no such attack, or it is not played there.
    """
    chosen = select(name, suite)
    for attack, target in chosen:
        if scenario in (None, target.scenario):
            return play(attack, target, seed=seed, profile=profile)
    known = [target.scenario for _, target in chosen]
    raise UnknownPluginError(
        f"attack {name!r} on {suite!r} has no scenario {scenario!r}: "
        f"{nearest(str(scenario), known)}"
    )


def play_all(
    name: str, suite: str | None = None, *, seed: int, profile: str
) -> Iterator[AttackResult]:
    """Play what `select` returns, one after the other."""
    for attack, target in select(name, suite):
        yield play(attack, target, seed=seed, profile=profile)
