"""A1 to A12: they succeed where a defence is missing, and fail on `gated`."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from hre_torch.attacks import ATTACKS, run_attack
from hre_torch.attacks.catalogue import find_attack, play, select
from hre_torch.attacks.command import attack as attack_command
from hre_torch.attacks.command import report, story
from hre_torch.attacks.result import Target
from hre_torch.attacks.weakened import WEAKENED
from hre_torch.errors import UnknownPluginError
from hre_torch.protocol.suites import SUITES

TOY, REAL = "toy-insecure", "rsa2048"
PLAYED = [
    pytest.param(attack, target, id=f"{attack.name}-{target.suite}-{target.scenario}")
    for attack, target in select("all")
]
# A picture of 2,410 weights takes seconds at 2048 bits, everything else less than one.
AT_REAL_SIZE = [
    pytest.param(
        *case.values,
        id=case.id,
        marks=pytest.mark.slow if case.values[0].name == "A9" else (),
    )
    for case in PLAYED
]


def surprises(attack, target, *, seeds, profile=TOY):
    """Return the seeds with which an attack does something else than expected."""
    results = (play(attack, target, seed=seed, profile=profile) for seed in seeds)
    return [seed for seed, r in zip(seeds, results, strict=True) if not r.as_expected]


@pytest.mark.parametrize(("attack", "target"), PLAYED)
def test_an_attack_does_what_it_should_with_twenty_seeds(attack, target):
    assert surprises(attack, target, seeds=range(20)) == []


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "target"), PLAYED)
def test_an_attack_does_what_it_should_with_a_hundred_seeds(attack, target):
    assert surprises(attack, target, seeds=range(100)) == []


@pytest.mark.parametrize(("attack", "target"), AT_REAL_SIZE)
def test_an_attack_does_what_it_should_at_2048_bits(attack, target):
    assert surprises(attack, target, seeds=[0], profile=REAL) == []


def test_the_catalogue_has_all_twelve_attacks_in_order():
    assert list(ATTACKS) == [f"A{number}" for number in range(1, 13)]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_every_attack_succeeds_somewhere_and_fails_on_gated(attack):
    assert any(target.expected for target in attack.targets)
    gated = [target for target in attack.targets if target.suite == "gated"]
    assert not gated[0].expected


def test_only_a11_across_versions_may_succeed_on_gated():
    lost = {
        (attack.name, target.scenario)
        for attack, target in select("all", "gated")
        if target.expected
    }
    assert lost == {("A11", "across versions"), ("A11", "across versions, for all")}


# How honest roles of `gated` meet each attack: by refusing (then every door must have
# said so), or by leaving the attacker with noise.
REFUSED_BY = {
    "A1": ["ReleaseError", "MessageError"],
    "A4": ["ProofError", "ProofError"],
    "A5": ["MessageError"],
    "A6": ["ProofError", "ProofError"],
    "A7": ["ProofError"],
    "A10": ["TaskError"],
    "A11": ["ReleaseError", "ReleaseError"],
}


@pytest.mark.parametrize("name", ATTACKS)
def test_gated_refuses_with_a_typed_error_or_leaves_noise(name):
    result = run_attack(name, "gated", seed=1)
    kinds = [refusal.split(":")[0] for refusal in result.refusals]
    assert kinds == REFUSED_BY.get(name, [])


@pytest.mark.parametrize("name", ["A1", "A2", "A3"])
def test_what_an_attacker_of_gated_computes_has_nothing_to_do_with_the_truth(name):
    recovered, true = [], []
    for seed in range(10):
        result = run_attack(name, "gated", seed=seed)
        recovered += result.recovered
        true += result.true
    assert abs(np.corrcoef(recovered, true)[0, 1]) < 5 / len(true) ** 0.5


@pytest.mark.parametrize("scenario", ["negated lanes", "negated heads"])
def test_a12_is_accepted_by_gated_and_changes_nothing(scenario):
    result = run_attack("A12", "gated", scenario=scenario)
    assert result.refusals == ()
    assert result.recovered == result.true


def test_a11_across_versions_wins_once_and_is_detected_one_release_late():
    result = run_attack("A11", "gated", scenario="across versions")
    assert result.recovered == result.true
    [detected] = result.refusals
    assert "computed on another model than others of version 2" in detected


def test_a11_is_detected_although_the_shift_is_taken_back():
    undone = Target("gated", True, "", scenario="across versions, undone")
    result = play(ATTACKS["A11"], undone, seed=0, profile=TOY)
    [detected] = result.refusals
    assert "computed on another model than others of version 2" in detected


def test_a11_is_not_detected_where_everybody_is_shown_the_same_shift():
    result = run_attack("A11", "gated", scenario="across versions, for all")
    assert result.recovered == result.true
    assert result.refusals == ()


def test_no_weakened_variant_is_a_suite_that_a_recipe_could_name():
    labels = {target.suite for _, target in select("all")}
    assert set(WEAKENED) <= labels
    assert labels & set(SUITES.names()) == {"gated", "paper", "phong", "plain"}
    for label in set(WEAKENED) | {label for label in labels if " " in label}:
        with pytest.raises(UnknownPluginError):
            SUITES.get(label)


@pytest.mark.parametrize("name", ["A4", "a4", "a04", "A04"])
def test_an_attack_is_found_however_its_number_is_written(name):
    assert find_attack(name) is ATTACKS["A4"]


def test_an_unknown_attack_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownPluginError, match=r"did you mean 'A1.*Allowed: A1, A2"):
        run_attack("A111", "gated")


def test_an_attack_that_is_not_played_on_a_suite_names_those_where_it_is():
    with pytest.raises(UnknownPluginError, match="did you mean 'paper'"):
        run_attack("A1", "papre")
    with pytest.raises(UnknownPluginError, match="Allowed: one version, across"):
        run_attack("A11", "gated", scenario="both")


def test_a_story_shows_recovered_beside_true_values_and_says_why():
    result = run_attack("A5", "paper")
    told = story(result).plain
    first = " ".join(map(str, result.true[:6]))
    assert f"recovered  {first}" in told
    assert f"true       {first}" in told
    assert result.explanation in told


def test_the_report_is_a_list_of_attack_suite_succeeded_and_expected():
    [row] = report([run_attack("A1", "gated")])
    assert (row["attack"], row["suite"]) == ("A1", "gated")
    assert row["succeeded"] is row["expected"] is False
    assert json.loads(json.dumps(row)) == row


def test_the_command_prints_stories_and_writes_the_report(tmp_path):
    console = Console(file=io.StringIO(), width=100)
    file = tmp_path / "attacks.json"
    assert attack_command("a6", console=console, suite="gated", json_file=file)
    [row] = json.loads(file.read_text())
    assert (row["attack"], row["suite"], row["succeeded"]) == ("A6", "gated", False)
    printed = console.file.getvalue()
    assert "recovered  nothing" in printed
    assert "ProofError" in printed
