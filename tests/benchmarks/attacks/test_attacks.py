"""A1 to A17: they succeed where a defence is missing, and fail on what we offer."""

from __future__ import annotations

import functools
import io
import json

import msgspec
import numpy as np
import pytest
from rich.console import Console

from benchmarks.attacks import ATTACKS, run_attack
from benchmarks.attacks.a13_ring import View, spoil_words
from benchmarks.attacks.a14_two_models_for_good import RELEASES
from benchmarks.attacks.catalogue import find_attack, play, select
from benchmarks.attacks.command import attack as attack_command
from benchmarks.attacks.command import report, story
from benchmarks.attacks.result import Refusals
from benchmarks.attacks.scene import Scene
from benchmarks.attacks.weakened import WEAKENED
from hre_torch.errors import UnknownPluginError
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.suite import Suite
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.vectors import chained_digest

TOY, REAL = "toy-insecure", "rsa2048"
OFFERED = ["gated", "hybrid"]
"""Suites for people with adversaries; all attacks but those of LOST fail on them."""
PLAYED = [
    pytest.param(attack, target, id=f"{attack.name}-{target.suite}-{target.scenario}")
    for attack, target in select("all")
]


def mark_at_real_size(attack, target):
    """Say when an attack is played at 2048 bits: by default, on what we offer."""
    if attack.name == "A9":
        return pytest.mark.slow  # A picture of 2,410 weights takes seconds.
    return () if target.suite in OFFERED else pytest.mark.gate


AT_REAL_SIZE = [
    pytest.param(*case.values, id=case.id, marks=mark_at_real_size(*case.values))
    for case in PLAYED
]


def surprises(attack, target, *, seeds, profile=TOY):
    """Return the seeds with which an attack does something else than expected."""
    results = (play(attack, target, seed=seed, profile=profile) for seed in seeds)
    return [seed for seed, r in zip(seeds, results, strict=True) if not r.as_expected]


@pytest.mark.parametrize(("attack", "target"), PLAYED)
def test_an_attack_does_what_it_should(attack, target):
    assert surprises(attack, target, seeds=[0]) == []


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "target"), PLAYED)
def test_an_attack_does_what_it_should_with_a_hundred_seeds(attack, target):
    assert surprises(attack, target, seeds=range(100)) == []


KEYS = functools.cache(functools.partial(Suite.setup, operator=bytes(32)))


@pytest.fixture
def keys_made_once(monkeypatch):
    """Give every scene of a suite the same keys: tables take longer than attacks."""

    def setup(suite, names, parameters, *, operator):
        secrets, roster = KEYS(suite, tuple(names), parameters)
        return secrets, msgspec.structs.replace(roster, operator=operator)

    monkeypatch.setattr(Suite, "setup", setup)


@pytest.mark.usefixtures("keys_made_once")
@pytest.mark.parametrize(("attack", "target"), AT_REAL_SIZE)
def test_an_attack_does_what_it_should_at_2048_bits(attack, target):
    assert surprises(attack, target, seeds=[1], profile=REAL) == []


def test_the_catalogue_has_all_attacks_in_order():
    assert list(ATTACKS) == [f"A{number}" for number in range(1, 18)]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_every_attack_succeeds_somewhere_and_fails_on_what_we_offer(attack):
    assert any(target.expected for target in attack.targets)
    for suite in OFFERED:
        played = [target for target in attack.targets if target.suite == suite]
        # Suite `gated` has no masks of Ring-LWE, and so no A13.
        assert not played[0].expected if played else attack.name == "A13"


# What the documentation says is not protected, or not at once.
LOST = {
    "gated": {
        ("A11", "across versions"),
        ("A11", "across versions, undone"),
        ("A11", "across versions, for all"),
    },
    "hybrid": {("A11", "across versions, for all"), ("A13", "spoiled words")},
}


@pytest.mark.parametrize("suite", OFFERED)
def test_no_other_attack_may_succeed_than_the_documentation_says(suite):
    lost = {
        (attack.name, target.scenario)
        for attack, target in select("all", suite)
        if target.expected
    }
    assert lost == LOST[suite]


# How honest roles meet each attack: by refusing (then every door must have said so), or
# by leaving the attacker with noise.
REFUSED_BY = {
    "A1": ["ReleaseError", "MessageError"],
    "A4": ["ProofError", "ProofError"],
    "A5": ["MessageError"],
    "A6": ["ProofError", "ProofError"],
    "A7": ["ProofError"],
    "A10": ["TaskError"],
    "A15": ["SpentUpdateError"],
    "A17": ["TaskError"],
}


@pytest.mark.parametrize("suite", OFFERED)
@pytest.mark.parametrize("name", [n for n in ATTACKS if n not in ("A11", "A13", "A14")])
def test_an_attack_is_refused_with_a_typed_error_or_left_with_noise(name, suite):
    result = run_attack(name, suite, seed=1)
    kinds = [refusal.split(":")[0] for refusal in result.refusals]
    assert kinds == REFUSED_BY.get(name, [])


@pytest.mark.parametrize("suite", OFFERED)
@pytest.mark.parametrize("name", ["A1", "A2", "A3"])
def test_what_an_attacker_computes_has_nothing_to_do_with_the_truth(name, suite):
    assert abs(correlation(name, suite)) < 5 / 1000**0.5


@pytest.mark.parametrize("scenario", ["reused secret", "shared secret"])
def test_what_a_difference_of_words_shows_has_nothing_to_do_with_the_truth(scenario):
    assert abs(correlation("A13", "hybrid", scenario)) < 5 / 1000**0.5


def correlation(name, suite, scenario=None):
    """Correlate what an attacker computes with the truth, over 1000 values."""
    recovered, true = [], []
    for seed in range(10):
        result = run_attack(name, suite, scenario=scenario, seed=seed)
        recovered += result.recovered
        true += result.true
    assert len(true) == 1000
    return np.corrcoef(recovered, true)[0, 1]


@pytest.mark.parametrize("suite", OFFERED)
@pytest.mark.parametrize("scenario", ["negated lanes", "negated heads"])
def test_a12_is_accepted_and_changes_nothing(scenario, suite):
    result = run_attack("A12", suite, scenario=scenario)
    assert result.refusals == ()
    assert result.recovered == result.true


@pytest.mark.parametrize("scenario", ["across versions", "across versions, undone"])
def test_a11_across_versions_wins_once_on_gated_and_is_detected_one_release_late(
    scenario,
):
    result = run_attack("A11", "gated", scenario=scenario)
    assert result.recovered == result.true
    [detected] = result.refusals
    assert "computed on another model than others of version 1" in detected


@pytest.mark.parametrize(
    "scenario", ["one version", "across versions", "across versions, undone"]
)
def test_a11_is_refused_on_hybrid_by_whoever_is_shown_another_sum(scenario):
    result = run_attack("A11", "hybrid", scenario=scenario)
    # Bob asks twice for release 1, and later twice again.
    assert len(result.refusals) == 4
    for refusal in result.refusals:
        assert "TransformError: release 1 commits to another sum" in refusal


def test_a11_with_a_shifted_secret_holds_bob_at_the_model_before():
    result = run_attack("A11", "hybrid", scenario="one version, secret")
    assert result.recovered != result.true
    # Nothing is refused: he waits, and his updates are of a model that all know.
    assert result.refusals == ()


def test_a14_wins_once_on_gated_and_is_detected_at_the_next_release():
    result = run_attack("A14", "gated")
    one = len(result.recovered)
    assert result.recovered == result.true[:one]
    assert len(result.true) == 2 * one
    [detected] = result.refusals
    assert "computed on another model than others of version 1" in detected


def test_a14_on_hybrid_leaves_bob_s_update_in_every_sum():
    result = run_attack("A14", "hybrid")
    recovered, true = (
        np.reshape(x, (RELEASES, -1)) for x in (result.recovered, result.true)
    )
    assert all((sums != own).any() for sums, own in zip(recovered, true, strict=True))


def test_a16_has_three_honest_uploads_refused_where_one_word_is_believed():
    result = run_attack("A16", "gated without settling rule")
    stale = [each for each in result.refusals if each.startswith("StaleUploadError")]
    assert len(stale) == 3


@pytest.mark.parametrize("suite", OFFERED)
def test_a11_is_not_detected_where_everybody_is_shown_the_same_shift(suite):
    result = run_attack("A11", suite, scenario="across versions, for all")
    assert result.recovered == result.true
    assert result.refusals == ()


def test_a13_changed_words_are_refused_by_their_hash_and_by_the_proof():
    result = run_attack("A13", "hybrid", scenario="changed words")
    held_up, own = result.refusals
    assert held_up.startswith("MessageError: part 2 does not have the SHA-256")
    assert own.startswith("ProofError")


def test_a13_spoiled_words_cost_one_release_and_the_next_opens():
    names = ("alice", "bob", "carol", "mallory")
    scene, refusals = Scene("hybrid", 0, TOY, names=names), Refusals()
    scene.contribute("alice", "bob")
    tapped = tuple(scene.heard("alice->dsp", Upload))
    view = View(scene.task, scene.secrets["mallory"], tapped, scene.deliver)
    spoil_words(view, refusals)
    scene.release()
    honest = names[:3]
    assert [scene.opened_by(name, refusals) for name in honest] == [None] * 3
    assert [kind.split(":")[0] for kind in refusals.met] == ["SpoiledReleaseError"] * 6
    scene.give_up(*honest)
    # The weights are as before, and the release that was given up counts as one.
    model = scene.task.config.initial_digest
    models = model + chained_digest(model, model)
    updates = {name: scene.draw() for name in honest}
    for name, values in updates.items():
        scene.deliver(scene.participants[name].seal(values, 1, models))
    scene.release()
    opened = scene.opened_by("bob", refusals)
    assert (opened == np.sum(list(updates.values()), axis=0)).all()


def test_no_weakened_variant_is_a_suite_that_a_recipe_could_name():
    labels = {target.suite for _, target in select("all")}
    assert set(WEAKENED) <= labels
    assert labels & set(SUITES.names()) == {*OFFERED, "paper", "phong", "plain"}
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
