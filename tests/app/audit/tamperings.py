"""Ways to change a finished run directory, and what an audit must say of each.

An outsider can write to the directory and holds no key. A signer holds the operator's
key while the run ends, signs the files after changing them, and is caught by what the
servers and participants have signed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch

from hre_torch.app.audit.manifest import CHECKPOINT, write_manifest
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.protocol.wire import kind_of

__all__ = ["TAMPERINGS", "Scene", "Tampering", "records_of", "sign_again"]

Change = Callable[["Scene"], None]


@dataclass(frozen=True)
class Scene:
    """A copy of a finished run that may be changed, and a run by somebody else.

    Attributes:
        run: the copy.
        foreign: another run, with keys of its own and another seed; not to be changed.
        cfg: hash of the run's task.
        operator: the key that has signed the run; outsiders do not use it.
    """

    run: Path
    foreign: Path
    cfg: bytes
    operator: SigningKey


@dataclass(frozen=True)
class Tampering:
    """One way to change a run.

    Attributes:
        name: what is changed, for people.
        change: does it.
        message: regular expression that a finding matches from its start; the file
            comes first.
        by: `"outsider"` or `"signer"`.
        old: whether audits before there were signed lists of files found it.
    """

    name: str
    change: Change
    message: str
    by: str = "outsider"
    old: bool = False


TAMPERINGS: list[Tampering] = []


def tampering(
    name: str, message: str, *, by: str = "outsider", old: bool = False
) -> Callable[[Change], Change]:
    """Add a change to the list."""

    def add(change: Change) -> Change:
        TAMPERINGS.append(Tampering(name, change, message, by, old))
        return change

    return add


def sign_again(scene: Scene, key: SigningKey | None = None) -> None:
    """Sign the directory as it is now."""
    write_manifest(scene.run, scene.cfg, key or scene.operator, {})


def edit_summary(scene: Scene, **changes: object) -> None:
    path = scene.run / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2))


def edit_metrics(scene: Scene, change: Callable[[dict], dict | None]) -> None:
    """Rewrite every record; None drops it."""
    path = scene.run / "metrics.jsonl"
    changed = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(f"{json.dumps(r)}\n" for r in changed if r is not None))


def edit_text(scene: Scene, name: str, old: str, new: str) -> None:
    text = (scene.run / name).read_text()
    assert old in text
    (scene.run / name).write_text(text.replace(old, new))


def edit_manifest(scene: Scene, change: Callable[[dict], None]) -> None:
    path = scene.run / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=2) + "\n")


def edit_weights(scene: Scene) -> None:
    """Change one weight by 2^-16, the smallest step."""
    path = scene.run / "weights.safetensors"
    with safetensors.safe_open(str(path), framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    next(iter(weights.values())).view(-1)[0] += 2.0**-16
    path.write_bytes(safetensors.torch.save(weights, metadata))


def take(scene: Scene, *names: str) -> None:
    """Put files of the foreign run in the place of the run's."""
    for name in names:
        shutil.copy(scene.foreign / name, scene.run / name)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def records_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield where each record of a transcript starts, and its body."""
    start = data.index(b"\n") + 1
    while start < len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        yield start, data[start + 4 : start + 4 + size]
        start += 4 + size


def cut_transcript(scene: Scene, *, keep_end: bool = False) -> None:
    """Drop everything after the last but one release, and count accordingly.

    Args:
        scene: whose transcript.
        keep_end: whether to leave what the servers signed of the end.
    """
    path = scene.run / "transcript.bin"
    data = path.read_bytes()
    kinds = [
        (start, kind_of(body) if number else "task", len(body))
        for number, (start, body) in enumerate(records_of(data))
    ]
    ends = [start + 4 + size for start, kind, size in kinds if kind == "release"]
    heads = [start for start, kind, _ in kinds if kind == "ledger_head"]
    path.write_bytes(data[: ends[-2]] + (data[heads[0] :] if keep_end else b""))
    counts = {
        "pushes": sum(k == "deposit" and start < ends[-2] for start, k, _ in kinds),
        "releases": len(ends) - 1,
    }
    edit_metrics(
        scene,
        lambda r: None if r["event"] == "release" and r["version"] == len(ends) else r,
    )
    tell(scene, **counts)


def tell(scene: Scene, **changes: object) -> None:
    """Change what the summary says, and the record of the end."""

    def change(record: dict) -> dict:
        if record["event"] == "end":
            record["summary"] |= changes
        return record

    edit_metrics(scene, change)
    edit_summary(scene, **changes)


def tell_accuracy(scene: Scene) -> None:
    """Tell a better accuracy wherever it is told."""

    edit_metrics(
        scene, lambda r: r | {"accuracy": 0.99} if r["event"] == "evaluation" else r
    )
    tell(scene, test_accuracy=0.99)


def a_tensorboard_file(scene: Scene) -> Path:
    return next((scene.run / "tensorboard").iterdir())


# ---- by somebody who holds no key ----------------------------------------------------

tampering("a weight is changed", r"weights\.safetensors: it has .* signed list")(
    edit_weights
)


@tampering("the weights are deleted", r"weights\.safetensors: it is missing")
def _(scene: Scene) -> None:
    (scene.run / "weights.safetensors").unlink()


@tampering(
    "the weights of another run, `weights_sha256` adapted",
    r"weights\.safetensors: it has .* signed list",
)
def _(scene: Scene) -> None:
    take(scene, "weights.safetensors")
    edit_summary(scene, weights_sha256=sha256_of(scene.run / "weights.safetensors"))


@tampering(
    "`weights_sha256` in the summary",
    r"weights\.safetensors: its SHA-256 is \w+, but weights_sha256 in summary\.json",
)
def _(scene: Scene) -> None:
    edit_summary(scene, weights_sha256="00" * 32)


@tampering(
    "the accuracy in the summary",
    r"summary\.json: test_accuracy is 0\.99, but [\d.]+ in the end record",
)
def _(scene: Scene) -> None:
    edit_summary(scene, test_accuracy=0.99)


tampering("the accuracy wherever it is told", r"metrics\.jsonl: it has .* signed list")(
    tell_accuracy
)


@tampering(
    "`t` in the summary",
    r"summary\.json: min_contributions is 4, but the transcript shows 3",
)
def _(scene: Scene) -> None:
    edit_summary(scene, min_contributions=4)


@tampering(
    "rejected releases in the summary",
    r"summary\.json: rejected is 2, but 0 in the end record of metrics\.jsonl",
)
def _(scene: Scene) -> None:
    edit_summary(scene, rejected=2)


@tampering(
    "bytes sent in the summary",
    r"summary\.json: bytes_up is 1, but the uploads in the transcript alone have \d+",
)
def _(scene: Scene) -> None:
    edit_summary(scene, bytes_up=1)


@tampering(
    "bytes received in the summary",
    r"summary\.json: bytes_down is 1, but \d+ in the last evaluation",
)
def _(scene: Scene) -> None:
    edit_summary(scene, bytes_down=1)


@tampering(
    "uploads in the summary",
    r"summary\.json: pushes is 99, but the transcript shows \d+",
    old=True,
)
def _(scene: Scene) -> None:
    edit_summary(scene, pushes=99)


@tampering(
    "releases in the summary",
    r"summary\.json: releases is 99, but the transcript shows \d+",
    old=True,
)
def _(scene: Scene) -> None:
    edit_summary(scene, releases=99)


@tampering(
    "seconds in the summary",
    r"summary\.json: seconds is 0\.1, but [\d.]+ in the end record",
)
def _(scene: Scene) -> None:
    edit_summary(scene, seconds=0.1)


@tampering("the summary is deleted", r"summary\.json: it is missing")
def _(scene: Scene) -> None:
    (scene.run / "summary.json").unlink()


@tampering("a loss in the metrics", r"metrics\.jsonl: it has .* signed list")
def _(scene: Scene) -> None:
    edit_metrics(scene, lambda r: r | {"loss": 0.001} if r["event"] == "push" else r)


@tampering(
    "a release is left out of the metrics",
    r"metrics\.jsonl: it tells of a release .*'version': 2.* transcript shows "
    r".*'version': 1",
)
def _(scene: Scene) -> None:
    edit_metrics(
        scene, lambda r: None if r.get("contributors") and r["version"] == 1 else r
    )


@tampering(
    "a contributor in the metrics",
    r"metrics\.jsonl: it tells of a release .*'mallory'.* transcript shows ",
)
def _(scene: Scene) -> None:
    edit_text(
        scene, "metrics.jsonl", '"contributors":["p0"', '"contributors":["mallory"'
    )


@tampering(
    "the end of the metrics is cut off", r"metrics\.jsonl: the record of the end"
)
def _(scene: Scene) -> None:
    edit_metrics(scene, lambda r: None if r["event"] == "end" else r)


@tampering(
    "a line is appended to the metrics",
    r"metrics\.jsonl: \d+ octets were appended to the \d+ signed",
)
def _(scene: Scene) -> None:
    with (scene.run / "metrics.jsonl").open("a") as file:
        file.write('{"event":"evaluation","accuracy":0.99}\n')


@tampering(
    "the learning rate in the recipe",
    r"recipe\.yaml: train\.lr is 0\.1, but 0\.2 in the start record of metrics\.jsonl",
)
def _(scene: Scene) -> None:
    edit_text(scene, "recipe.yaml", "lr: 0.2", "lr: 0.1")


@tampering(
    "the learning rate in recipe and metrics", r"recipe\.yaml: it has .* signed list"
)
def _(scene: Scene) -> None:
    edit_text(scene, "recipe.yaml", "lr: 0.2", "lr: 0.1")
    edit_text(scene, "metrics.jsonl", '"lr":0.2', '"lr":0.1')


@tampering("the recipe is deleted", r"recipe\.yaml: it is missing")
def _(scene: Scene) -> None:
    (scene.run / "recipe.yaml").unlink()


@tampering(
    "the transcript of another run",
    r"manifest\.json: it lists the files of task \w+, but the transcript is that of "
    r"task \w+",
)
def _(scene: Scene) -> None:
    take(scene, "transcript.bin")


tampering(
    "the transcript is cut, together with its counts",
    r"transcript\.bin: it has \d+ octets .*, but the signed list \d+ octets",
)(cut_transcript)


@tampering("an octet of the transcript", r"transcript\.bin, record \d+: ", old=True)
def _(scene: Scene) -> None:
    data = bytearray((scene.run / "transcript.bin").read_bytes())
    data[-500] ^= 1
    (scene.run / "transcript.bin").write_bytes(bytes(data))


@tampering(
    "a deposit is left out of the transcript",
    r"transcript\.bin, record 1: upload \w+ was never entered",
    old=True,
)
def _(scene: Scene) -> None:
    data = (scene.run / "transcript.bin").read_bytes()
    starts = [start for start, _ in records_of(data)]
    (scene.run / "transcript.bin").write_bytes(data[: starts[1]] + data[starts[2] :])


@tampering("the transcript is deleted", r"transcript\.bin: it is missing", old=True)
def _(scene: Scene) -> None:
    (scene.run / "transcript.bin").unlink()


@tampering("the signed list is deleted", r"manifest\.json: it is missing")
def _(scene: Scene) -> None:
    (scene.run / "manifest.json").unlink()


@tampering(
    "a weight, its hashes adapted everywhere",
    r"manifest\.json: the signature is not the operator's",
)
def _(scene: Scene) -> None:
    edit_weights(scene)
    digest = sha256_of(scene.run / "weights.safetensors")
    edit_manifest(
        scene, lambda m: m["files"]["weights.safetensors"].update(sha256=digest)
    )
    edit_summary(scene, weights_sha256=digest)


@tampering(
    "the weights are deleted, in the signed list too",
    r"manifest\.json: the signature is not the operator's",
)
def _(scene: Scene) -> None:
    (scene.run / "weights.safetensors").unlink()
    edit_manifest(scene, lambda m: m["files"].pop("weights.safetensors"))


@tampering(
    "a weight, the list signed with a key of one's own",
    r"manifest\.json: it names the operator \w+, but the task is signed by \w+",
)
def _(scene: Scene) -> None:
    edit_weights(scene)
    sign_again(scene, SigningKey.generate())


@tampering(
    "the same, in the operator's name",
    r"manifest\.json: the signature is not the operator's",
)
def _(scene: Scene) -> None:
    edit_weights(scene)
    sign_again(scene, SigningKey.generate())
    operator = scene.operator.public.hex()
    edit_manifest(scene, lambda content: content.update(operator=operator))


@tampering("TensorBoard's curves", r"tensorboard/.*: it has .* signed list")
def _(scene: Scene) -> None:
    path = a_tensorboard_file(scene)
    path.write_bytes(path.read_bytes()[::-1])


@tampering("TensorBoard's curves are deleted", r"tensorboard/.*: it is missing")
def _(scene: Scene) -> None:
    a_tensorboard_file(scene).unlink()


@tampering(
    "the whole directory is that of another run",
    r"transcript\.bin: its operator is \w+, not the one that you named",
)
def _(scene: Scene) -> None:
    shutil.rmtree(scene.run)
    shutil.copytree(scene.foreign, scene.run)


@tampering(
    "a finished run is made to look like one that was killed",
    r"summary\.json: it is missing, and checkpoint/ is there: the run has not ended",
)
def _(scene: Scene) -> None:
    cut_transcript(scene)
    (scene.run / "summary.json").unlink()
    (scene.run / "manifest.json").unlink()
    (scene.run / CHECKPOINT).mkdir()


# ---- by whoever holds the operator's key when the run ends ---------------------------


@tampering(
    "`t` in the summary",
    r"summary\.json: min_contributions is 4, but the transcript shows 3",
    by="signer",
)
def _(scene: Scene) -> None:
    edit_summary(scene, min_contributions=4)


@tampering(
    "fewer bytes sent than the uploads have",
    r"summary\.json: bytes_up is 1, but the uploads in the transcript alone have \d+",
    by="signer",
)
def _(scene: Scene) -> None:
    edit_summary(scene, bytes_up=1)


@tampering(
    "the recipe of another task",
    r"recipe\.yaml: staleness_bound is 7, but 50 in the task",
    by="signer",
)
def _(scene: Scene) -> None:
    edit_text(scene, "recipe.yaml", "staleness_bound: 50", "staleness_bound: 7")
    edit_text(scene, "metrics.jsonl", '"staleness_bound":50', '"staleness_bound":7')


@tampering(
    "rejected releases in summary and metrics",
    r"summary\.json: rejected is 2, but the transcript has verdicts on 0 releases",
    by="signer",
)
def _(scene: Scene) -> None:
    tell(scene, rejected=2)


@tampering(
    "a weight, its hash adapted everywhere",
    r"weights\.safetensors: the weights have the digest \w+, but the participants and "
    r"both servers have signed \w+ for release \d+",
    by="signer",
)
def _(scene: Scene) -> None:
    edit_weights(scene)
    tell(scene, weights_sha256=sha256_of(scene.run / "weights.safetensors"))


@tampering(
    "the transcript is cut, together with its counts",
    r"transcript\.bin: its end is not signed by dsp and kts: it is cut off",
    by="signer",
)
def _(scene: Scene) -> None:
    cut_transcript(scene)


@tampering(
    "the same, but for its end",
    r"transcript\.bin, record \d+: the dsp has signed an end with releases: \d+, but "
    r"the transcript shows \d+",
    by="signer",
)
def _(scene: Scene) -> None:
    cut_transcript(scene, keep_end=True)


@tampering(
    "the last word of a server is left out",
    r"transcript\.bin: its end is not signed by kts: it is cut off",
    by="signer",
)
def _(scene: Scene) -> None:
    data = (scene.run / "transcript.bin").read_bytes()
    *_, (last, _) = records_of(data)
    (scene.run / "transcript.bin").write_bytes(data[:last])
