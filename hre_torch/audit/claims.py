"""What the files beside a transcript claim, compared with it and with each other.

The signed list of files shows that something was changed after the run. This shows
what, and it holds a signer to what the servers have signed: counts, releases and the
task's numbers are recomputed from the transcript.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hre_torch.audit.manifest import METRICS, RECIPE, SUMMARY, WEIGHTS
from hre_torch.audit.replay import History
from hre_torch.audit.weights import released_values
from hre_torch.errors import MessageError
from hre_torch.protocol.messages import Release

__all__ = ["contradictions"]

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
    config = history.task.config
    try:
        released_values(folder / WEIGHTS, config.n_values, config.fraction_bits)
    except MessageError as error:
        yield f"{WEIGHTS}: {error}"


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
    for key in sorted(told.keys() | there.keys()):
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
    path = folder / RECIPE
    if not path.is_file():
        return None
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, OSError) as error:
        raise MessageError(f"{RECIPE}: it is unreadable: {error}") from None
    if not isinstance(content, dict):
        raise MessageError(f"{RECIPE}: it holds no keys and values")
    return content


def _read(folder: Path, name: str) -> bytes | None:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MessageError(f"{name}: it cannot be read ({error.strerror})") from error


def _decoded(data: bytes, where: str) -> Record:
    try:
        return msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"{where}: it is unreadable: {error}") from None
