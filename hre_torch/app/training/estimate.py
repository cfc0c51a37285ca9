"""What a recipe will cost, before anything is encrypted.

A suite knows how many multiplications modulo n^2 each of its phases takes, how many
words it masks and how large its tables are; how long one takes is measured here, on
this machine, in a few milliseconds. Suites without cryptography cost nothing. Training
itself is not part of the estimate.

In suite `hybrid` the key layer is counted in multiplications, and does not grow with
the model; the words do. Masking, hashing, adding and opening a short update tells what
a word takes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hre_torch.app.data.load import Data
from hre_torch.app.models import build_model
from hre_torch.app.recipes import Recipe
from hre_torch.app.training.assembly import make_batches, steps_of
from hre_torch.crypto.dcr.fixed_base import FixedBaseTable
from hre_torch.crypto.dcr.modulus import Parameters, load_profile
from hre_torch.crypto.rlwe.masking import accumulate, mask, unmask
from hre_torch.crypto.rlwe.parameters import VALUES_PER_BLOCK, RingParameters
from hre_torch.crypto.rlwe.sampling import PIECE_BLOCKS, PublicExpansion
from hre_torch.encoding.fixed_point import FixedPoint
from hre_torch.errors import RecipeError
from hre_torch.optim.flatten import Layout
from hre_torch.protocol.suite import Plan, Workload
from hre_torch.protocol.suites import SUITES

__all__ = [
    "Estimate",
    "estimate_recipe",
    "multiplication_seconds",
    "table_seconds_per_byte",
    "word_seconds",
]

_VALUES: Final = 2 * PIECE_BLOCKS * VALUES_PER_BLOCK
# The fastest of several: whatever else the machine does can only slow one.
_MASK_ROUNDS: Final = 5
_UPLOADS: Final = 3


def word_seconds() -> dict[str, float]:
    """Measure the phases that treat words, in seconds per word.

    An upload is hashed when it is signed and when it is checked, a download when its
    parts are cut out and when it is compared with the commitment of the release.

    Returns:
        Phase to seconds, named as in `Plan.multiplications`.
    """
    parameters, expansion = RingParameters(), PublicExpansion(b"estimate")
    values = np.zeros(_VALUES, dtype=np.int32)
    # A sum of secrets takes longer to multiply with than a single one.
    uploads = [mask(values, parameters, expansion) for _ in range(_UPLOADS)]
    total, words = np.zeros_like(uploads[0].words), uploads[0].words
    for upload in uploads:
        accumulate(total, upload.words)
    secrets = np.stack([upload.secret for upload in uploads])
    secret: NDArray[np.int64] = secrets.sum(axis=0, dtype=np.int64)
    masking = _fastest(lambda: mask(values, parameters, expansion))
    hashing = _fastest(lambda: hashlib.sha256(words.data))
    opening = _fastest(
        lambda: unmask(total, secret, _UPLOADS, _VALUES, parameters, expansion)
    )
    adding = _fastest(lambda: accumulate(total, words))
    seconds = {
        "encrypt": masking + hashing,
        "check": hashing,
        "add": adding,
        "open": opening + 2 * hashing,
    }
    return {phase: spent / words.size for phase, spent in seconds.items()}


def _fastest(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_MASK_ROUNDS):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


# The fastest of several short rounds: whatever else the machine does can only slow one.
_ROUNDS: Final = 8
_PER_ROUND: Final = 200
_SMALL_TABLE: Final = (16, 8)
"""Bits of exponents and window of a table that is built to see how long it takes."""

# Phases of which a download takes one call each; `add` belongs to a release, and what
# else there is to a push.
_OF_A_DOWNLOAD: Final = ("first_phase", "second_phase", "open")
_PHASES: Final = ("encrypt", "check", "add", *_OF_A_DOWNLOAD)


def multiplication_seconds(parameters: Parameters) -> float:
    """Measure one multiplication modulo n^2, in seconds."""
    modulus = parameters.n_squared
    # Any two numbers of full length do; these need no randomness.
    x, y = modulus // 3, modulus // 7
    best = float("inf")
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        for _ in range(_PER_ROUND):
            x = x * y % modulus
        best = min(best, (time.perf_counter() - started) / _PER_ROUND)
    return best


def table_seconds_per_byte(parameters: Parameters) -> float:
    """Measure the building of a small fixed-base table, in seconds per byte of it."""
    best = float("inf")
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        table = FixedBaseTable(parameters.g, parameters.n, *_SMALL_TABLE)
        best = min(best, (time.perf_counter() - started) / table.memory_bytes)
    return best


@dataclass(frozen=True, slots=True)
class Estimate:
    """Predicted cost of a run; the keys are those of `summary.json` where it has them.

    Attributes:
        parameters: trainable values.
        upload_bytes: body of one push.
        download_bytes: body of one download.
        server_bytes: what the two servers exchange for one download.
        phases_ms: phase to milliseconds of one call.
        table_bytes: role to memory of its fixed-base tables.
        table_seconds: role to time that building them takes, once and for all; in no
            other number.
        recipient_table_bytes: of `table_bytes` what each server keeps for one recipient
            that comes again.
        recipient_table_seconds: time that building those takes.
        participant_bytes: memory of one participant for what is as long as the model,
            besides torch: released and local weights, one pending update, an upload.
        pushes: of all participants in the whole run.
        pulls: of all participants in the whole run.
        releases: in the whole run, if each holds as few uploads as it may.
        bytes_up: all pushes.
        bytes_down: all downloads; a pull is one where releases are merged, and one per
            release where not.
        seconds: all cryptography, besides tables.
    """

    parameters: int
    upload_bytes: int
    download_bytes: int
    server_bytes: int
    phases_ms: dict[str, float]
    table_bytes: dict[str, int]
    table_seconds: dict[str, float]
    recipient_table_bytes: int
    recipient_table_seconds: float
    participant_bytes: int
    pushes: int
    pulls: int
    releases: int
    bytes_up: int
    bytes_down: int
    seconds: float

    def record(self) -> dict[str, Any]:
        """Return what the first line of `metrics.jsonl` says about it."""
        return asdict(self)


def estimate_recipe(
    recipe: Recipe, data: Data, *, parameters_of_model: int | None = None
) -> Estimate:
    """Predict what a recipe will cost on this machine.

    Args:
        recipe: what would be run.
        data: its data, which says how many steps there are.
        parameters_of_model: trainable values of a model to be used in the place of the
            recipe's, which need not exist yet; None for the recipe's own.

    Raises:
        ConfigurationError: no such suite, profile or model, or too few images.
    """
    suite, parameters = SUITES.get(recipe.suite), load_profile(recipe.profile)
    n_params, n_values = _sizes(recipe, parameters_of_model)
    options = recipe.options()
    workload = Workload(
        n_values=n_values + (recipe.combination == "weighted"),
        participants=recipe.participants,
        value_bits=recipe.value_bits,
        max_additions=options.additions,
    )
    plan = suite.plan(parameters, workload)
    steps = [steps_of(recipe, share) for share in make_batches(recipe, data)]
    pushes = sum(ceil(count / recipe.train.push_every) for count in steps)
    # Everybody pulls once more at the end.
    pulls = sum(count // recipe.train.pull_every + 1 for count in steps)
    t = options.contributions(recipe.participants)
    releases = pushes // t
    downloads = recipe.participants * releases
    if suite.merges_in(recipe.combination, n_values - n_params, recipe.clip):
        downloads = min(downloads, pulls)
    phases = _phase_seconds(plan, parameters, recipe.workers, additions=t - 1)
    per_byte = table_seconds_per_byte(parameters) if plan.table_bytes else 0.0
    calls = {"add": releases} | dict.fromkeys(_OF_A_DOWNLOAD, downloads)
    return Estimate(
        parameters=n_params,
        upload_bytes=plan.upload_bytes,
        download_bytes=plan.download_bytes,
        server_bytes=plan.server_bytes,
        phases_ms={phase: 1000.0 * seconds for phase, seconds in phases.items()},
        table_bytes=dict(plan.table_bytes),
        table_seconds={
            role: per_byte * octets for role, octets in plan.table_bytes.items()
        },
        recipient_table_bytes=plan.recipient_bytes,
        recipient_table_seconds=per_byte * plan.recipient_bytes,
        participant_bytes=_octets_per_value(recipe) * n_values + plan.upload_bytes,
        pushes=pushes,
        pulls=pulls,
        releases=releases,
        bytes_up=pushes * plan.upload_bytes,
        bytes_down=downloads * plan.download_bytes,
        seconds=sum(
            seconds * calls.get(phase, pushes) for phase, seconds in phases.items()
        ),
    )


def _sizes(recipe: Recipe, parameters_of_model: int | None) -> tuple[int, int]:
    """Return the number of parameters, and of all values that travel."""
    if parameters_of_model is not None:
        if parameters_of_model < 1:
            raise RecipeError(
                f"a model of {parameters_of_model} parameters was asked for; it has at "
                "least 1"
            )
        return parameters_of_model, parameters_of_model
    model = build_model(recipe.model.name, recipe.train.seed, **recipe.model.options)
    layout = Layout.of(model, recipe.buffers)
    return layout.n_params, layout.n_params + layout.n_buffers


def _octets_per_value(recipe: Recipe) -> int:
    """Released weights, the local model, one pending update."""
    pending = FixedPoint(recipe.fraction_bits, recipe.value_bits).dtype
    return (
        np.dtype(np.int64).itemsize + np.dtype(np.float64).itemsize + pending.itemsize
    )


def _phase_seconds(
    plan: Plan, parameters: Parameters, workers: int, *, additions: int
) -> dict[str, float]:
    """Return phase to seconds of one call."""
    if not plan.multiplications:
        return {}
    one = multiplication_seconds(parameters)
    blocks = max(1, ceil(plan.plaintexts / parameters.lanes))
    # The slowest worker has this share of the blocks.
    share = ceil(blocks / min(workers, os.cpu_count() or 1)) / blocks
    seconds = {
        phase: one * share * count for phase, count in plan.multiplications.items()
    }
    unshared = {phase: one * count for phase, count in plan.unshared.items()}
    if plan.words:
        for phase, each in word_seconds().items():
            unshared[phase] = unshared.get(phase, 0.0) + each * plan.words
    for phase, each in unshared.items():
        # A release adds all but its first upload.
        times = additions if phase == "add" else 1
        seconds[phase] = seconds.get(phase, 0.0) + each * times
    return {phase: seconds[phase] for phase in _PHASES if phase in seconds}
