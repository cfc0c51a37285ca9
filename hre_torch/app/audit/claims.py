"""What the files beside a transcript claim, compared with it and with each other.

The signed list of files shows that something was changed after the run. This shows
what, and it holds a signer to what the servers have signed: counts, releases and the
task's numbers are recomputed from the transcript.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hre_torch.app.audit.manifest import (
    METRICS,
    RECIPE,
    SUMMARY,
    WEIGHTS,
    released_values,
)
from hre_torch.app.audit.replay import History
from hre_torch.errors import MessageError
from hre_torch.protocol.messages import Release
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.vectors import chained_digest, state_digest

__all__ = ["contradictions", "unproved"]

Record: TypeAlias = dict[str, Any]

_MEASURED: Final = {
    "test_accuracy": "accuracy",
    "test_loss": "loss",
    "bytes_up": "bytes_up",
    "bytes_down": "bytes_down",
}
"""What a summary repeats of the last evaluation, and what it is called there."""


def contradictions(folder: Path, history: History) -> Iterator[str]:
    """Yield what the files of a finished run say that is not so.

    Files that are not there are passed over: the signed list names them.

    Args:
        folder: the run directory.
        history: what its transcript shows.
    """
    for check in (_of_summary, _of_metrics, _of_recipe, _of_weights):
        try:
            yield from check(folder, history)
        except MessageError as error:
            yield str(error)


def unproved(folder: Path, history: History) -> Iterator[str]:
    """Yield for which files only the operator's signature stands."""
    settled, _ = history.settled
    needed = history.task.config.assumed_colluders + 1
    if settled < len(history.releases):
        yield (
            f"{WEIGHTS}: nobody but the operator vouches for them: fewer than c + 1 = "
            f"{needed} participants have signed the model of release "
            f"{len(history.releases)}; the newest that is settled is {settled}"
        )
    elif _model_digest(folder, history) is None:
        yield (
            f"{WEIGHTS}: nobody but the operator vouches for them: some are too large "
            "for their type to hold every digit of what was released"
        )


def _of_summary(folder: Path, history: History) -> Iterator[str]:
    summary = _summary(folder)
    if summary is None:
        return
    config, releases = history.task.config, history.releases
    for key, shown in (
        ("suite", config.suite),
        ("profile", config.profile),
        ("participants", len(history.task.roster.participants)),
        ("parameters", config.n_params),
        ("min_contributions", config.min_contributions),
        ("combine", config.combine),
        ("pushes", history.uploads),
        ("releases", len(releases)),
    ):
        if summary.get(key) != shown:
            yield (
                f"{SUMMARY}: {key} is {summary.get(key)!r}, but the transcript shows "
                f"{shown!r}"
            )
    rejected, suite = summary.get("rejected"), SUITES.get(config.suite)
    if suite.judged and rejected != len(history.given_up):
        yield (
            f"{SUMMARY}: rejected is {rejected!r}, but the transcript has verdicts on "
            f"{len(history.given_up)} releases"
        )
    sent = summary.get("bytes_up")
    if not isinstance(sent, int) or sent < history.upload_bytes:
        yield (
            f"{SUMMARY}: bytes_up is {sent!r}, but the uploads in the transcript alone "
            f"have {history.upload_bytes}"
        )


def _of_metrics(folder: Path, history: History) -> Iterator[str]:
    records = _records(folder)
    if records is None:
        return
    told = [record for record in records if record.get("event") == "release"]
    shown = [_release_record(release, history) for release in history.releases]
    for record, expected in zip_longest(told, shown):
        seen = {key: (record or {}).get(key) for key in expected or ()}
        if record is None or seen != expected:
            yield (
                f"{METRICS}: it tells of a release {seen if record else None}, but the "
                f"transcript shows {expected}"
            )
            break
    rejections = {r.get("version") for r in records if r.get("event") == "rejection"}
    if SUITES.get(history.task.config.suite).judged and rejections != history.given_up:
        yield (
            f"{METRICS}: it tells of rejected releases {sorted(rejections, key=str)}, "
            f"but the transcript has verdicts on {sorted(history.given_up)}"
        )
    if not records or records[-1].get("event") != "end":
        yield f"{METRICS}: the record of the end is missing, which is its last"
        return
    summary = _summary(folder)
    if summary is None:
        return
    yield from _differences(
        SUMMARY, summary, f"the end record of {METRICS}", records[-1].get("summary")
    )
    evaluations = [r for r in records if r.get("event") == "evaluation"]
    last = evaluations[-1] if evaluations else {}
    yield from _differences(
        SUMMARY,
        {key: summary.get(key) for key in _MEASURED},
        f"the last evaluation in {METRICS}",
        {key: last.get(there) for key, there in _MEASURED.items()},
    )


def _of_recipe(folder: Path, history: History) -> Iterator[str]:
    recipe = _recipe(folder)
    if recipe is None:
        return
    config = msgspec.structs.asdict(history.task.config)
    known = config | {"participants": len(history.task.roster.participants)}
    # What a recipe leaves open, the task has filled in.
    told = {key: recipe[key] for key in known if recipe.get(key) is not None}
    yield from _differences(RECIPE, told, "the task", {key: known[key] for key in told})
    records = _records(folder) or []
    started = [record for record in records if record.get("event") == "start"]
    if records:
        yield from _differences(
            RECIPE,
            recipe,
            f"the start record of {METRICS}",
            started[0].get("recipe") if started else None,
        )


def _of_weights(folder: Path, history: History) -> Iterator[str]:
    data = _read(folder, WEIGHTS)
    if data is None:
        return
    summary, digest = _summary(folder), hashlib.sha256(data).hexdigest()
    told = digest if summary is None else summary.get("weights_sha256")
    if told != digest:
        yield (
            f"{WEIGHTS}: its SHA-256 is {digest[:16]}, but weights_sha256 in {SUMMARY} "
            f"is {str(told)[:16]}"
        )
    version, settled = history.settled
    model = _model_digest(folder, history)
    if model is not None and version == len(history.releases) and model != settled:
        yield (
            f"{WEIGHTS}: the weights have the digest {model.hex()[:16]}, but the "
            f"participants and both servers have signed {settled.hex()[:16]} for "
            f"release {version}"
        )


def _model_digest(folder: Path, history: History) -> bytes | None:
    """Return what upload headers would say of the weights in the weights file.

    Returns:
        The digest; None if the file holds only an image of the weights.

    Raises:
        MessageError: the file is no weights file of this task.
    """
    config = history.task.config
    try:
        values = released_values(
            folder / WEIGHTS, config.n_values, config.fraction_bits
        )
    except MessageError as error:
        raise MessageError(f"{WEIGHTS}: {error}") from None
    if values is None:
        return None
    digest = state_digest(values)
    suite = SUITES.get(config.suite)
    merges = suite.merges_in(config.combine, config.n_buffers, config.clip)
    if merges or not history.releases:
        return digest
    # Whatever is claimed to come before: one hash over both is signed.
    before = (_records(folder) or [{}])[-1].get("previous_model")
    try:
        return chained_digest(bytes.fromhex(str(before)), digest)
    except ValueError:
        raise MessageError(
            f"{METRICS}: previous_model in its last record is {before!r}, not a digest"
        ) from None


def _release_record(release: Release, history: History) -> Record:
    bases = [history.bases[item.digest] for item in release.uploads]
    return {
        "version": release.version,
        "contributions": len(release.uploads),
        "contributors": sorted({item.name for item in release.uploads}),
        "staleness": [release.version - 1 - base for base in bases],
    }


def _differences(
    name: str, told: Record, where: str, there: Record | None, prefix: str = ""
) -> Iterator[str]:
    """Yield what a file says otherwise than another place, key by key."""
    if not isinstance(there, dict):
        yield f"{name}: {where} is missing, which should say the same"
        return
    for key in sorted(told.keys() | there.keys(), key=str):
        one, other = told.get(key), there.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(name, one, where, other, f"{prefix}{key}.")
        elif one != other:
            yield f"{name}: {prefix}{key} is {one!r}, but {other!r} in {where}"


def _summary(folder: Path) -> Record | None:
    data = _read(folder, SUMMARY)
    return None if data is None else _decoded(data, SUMMARY)


def _records(folder: Path) -> list[Record] | None:
    data = _read(folder, METRICS)
    if data is None:
        return None
    # Not `splitlines`: JSON strings may hold what it takes for the end of a line.
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    return [
        _decoded(line, f"{METRICS}, line {number}")
        for number, line in enumerate(lines, start=1)
    ]


def _recipe(folder: Path) -> Record | None:
    data = _read(folder, RECIPE)
    if data is None:
        return None
    try:
        # Nothing is resolved: a resolved recipe has no references left, and a foreign
        # one has no business with this machine's environment.
        content = OmegaConf.to_container(OmegaConf.load(io.BytesIO(data)))
    except (
        OmegaConfBaseException,
        YAMLError,
        ValueError,
        OSError,
        RecursionError,
    ) as error:
        raise MessageError(f"{RECIPE}: it is unreadable: {error}") from None
    if not isinstance(content, dict):
        raise MessageError(f"{RECIPE}: it holds no keys and values")
    return content


def _read(folder: Path, name: str) -> bytes | None:
    path = folder / name
    if not path.is_file():
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise MessageError(f"{name}: it cannot be read ({error.strerror})") from error


def _decoded(data: bytes, where: str) -> Record:
    try:
        return msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"{where}: it is unreadable: {error}") from None
