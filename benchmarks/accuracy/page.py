"""The study as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.accuracy.matrix import METHODS, Case, Method
from benchmarks.accuracy.published import PUBLISHED, WHY_THEY_DIFFER
from benchmarks.accuracy.summary import Outcome, Row

__all__ = ["markdown"]

_COLUMNS: Final[tuple[Method, ...]] = tuple(m for m in METHODS if m != "equality")
_RIVALS: Final[tuple[Method, ...]] = ("selective 1 %", "alone")
_UNKNOWN: Final = "-"

_HEAD: Final = """\
# Accuracy

Test accuracy in percent after the last epoch, not the best on the way: mean over seeds
± standard deviation. Every method passes equally often over its images, with the same
optimizer and learning rate, in batches of which four participants' together are as
large as a pooled one, and computes as precisely: convolutional networks pass forward in
bfloat16 under torch's autocast, with parameters, gradients and exchange in float32;
perceptrons use float32. With 30 participants `cifar_cnn` trains in batches of 8 and
exchanges every 4 steps, whatever the method: as with 4 participants, federated training
came to 56.63 % (seed 0) and was behind selective 1 % with 65.04 %.

| method | what it is |
|---|---|
| pooled | plain torch on everybody's images in one place |
| federated | `HREOptimizer`, asynchronous, in suite `plain`: encrypted training has the same weights bit for bit |
| selective | plaintext baseline of Shokri and Shmatikov (2015): participants in turn upload the 10 % or 1 % of their changes that are largest, as often as the federated run pushes, with its momentum and schedule and never stale |
| alone | the first participant without anybody else |
"""  # noqa: E501

_GUESSING: Final = """\
About 10 % is guessing: there selective SGD diverged. Its learning rate is the recipe's,
which was chosen for the federated run, and in these splits a participant's few largest
changes are those of its few classes. With a tenth of the learning rate, `mnist_cnn`
reached 96.73 % with selective 1 % (4 participants, Dirichlet 0.3, seed 0).
"""


def markdown(
    environment: Mapping[str, Any], outcomes: Sequence[Outcome], rows: Sequence[Row]
) -> str:
    """Return the page.

    Args:
        environment: what `benchmarks.environment.describe` returned.
        outcomes: of all cells that were trained.
        rows: their summary.
    """
    sections = [
        _HEAD,
        _results(rows),
        _GUESSING,
        "![Learning curves](accuracy.png)\n",
        _promise(rows),
        _equality(outcomes),
        _published(rows),
        _origin(environment, outcomes),
    ]
    return "\n".join(section for section in sections if section)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int) -> str:
    """Return a table whose last columns, `numbers` of them, are flush right."""
    rules = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    lines = [head, rules, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _named(case: Case) -> list[str]:
    return [case.network, str(case.participants), case.split, str(case.epochs)]


_CASE_HEAD: Final = ("network", "participants", "split", "epochs")


def _results(rows: Sequence[Row]) -> str:
    body = [
        [
            *_named(row.case),
            *(str(row.methods.get(method, _UNKNOWN)) for method in _COLUMNS),
            str(len(row.methods["federated"].by_seed))
            if "federated" in row.methods
            else "0",
        ]
        for row in rows
    ]
    return _table([*_CASE_HEAD, *_COLUMNS, "seeds"], body, len(_COLUMNS) + 2)


def _promise(rows: Sequence[Row]) -> str:
    """Promise 3: better than selective SGD at 1 %, and than staying alone."""
    body = []
    for row in rows:
        leads = [row.lead(rival) for rival in _RIVALS]
        if None in leads:
            held = "not measured"
        else:
            held = (
                "yes" if all(lead > 0 for lead in leads if lead is not None) else "NO"
            )
        cells = [_UNKNOWN if lead is None else f"{lead:+.2f}" for lead in leads]
        body.append([*_named(row.case), *cells, held])
    head = [*_CASE_HEAD, *(f"over {rival}" for rival in _RIVALS), "holds"]
    return (
        "## Promise 3\n\n"
        "By how many points the federated model is ahead, in the worst seed:\n\n"
        + _table(head, body, 4)
    )


def _equality(outcomes: Sequence[Outcome]) -> str:
    body = [
        [
            outcome.cell.case.network,
            "yes" if outcome.record["equal"] else "NO",
        ]
        for outcome in outcomes
        if outcome.cell.method == "equality"
    ]
    return (
        "## Encrypted equals plain\n\n"
        "Four participants, 1,024 images, one epoch, `hybrid` with `rsa2048` beside "
        "`plain`:\n\n"
        + _table(["network", "released weights equal bit for bit"], body, 1)
    )


def _published(rows: Sequence[Row]) -> str:
    body = []
    for figure in PUBLISHED:
        ours = [
            row.methods[figure.method]
            for row in rows
            if row.case.network == figure.network
            and row.case.participants == 4
            and row.case.alpha is None
            and figure.method in row.methods
        ]
        body.append(
            [
                figure.source,
                figure.what,
                figure.percent,
                f"{figure.network}, {figure.method}",
                str(ours[0]) if ours else _UNKNOWN,
            ]
        )
    head = ["published by", "what", "percent", "ours, 4 participants, IID", "percent"]
    return (
        "## Published figures\n\n"
        "Published figures are **quoted from memory, not verified**.\n\n"
        + _table(head, body, 1)
        + f"\n{WHY_THEY_DIFFER}\n"
    )


def _origin(environment: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items())
    hours: dict[tuple[str, str], list[float]] = {}
    for outcome in outcomes:
        where = (outcome.cell.case.network, outcome.record["trained_on"])
        hours.setdefault(where, []).append(outcome.record["seconds"] / 3600)
    body = [
        [*where, str(len(each)), f"{sum(each):.2f}"] for where, each in hours.items()
    ]
    folders = any(
        "name: imagefolder" in outcome.record["recipe"] for outcome in outcomes
    )
    images = (
        "\nCIFAR-10 was read from image folders (JPEG re-encoded CIFAR-10 is not "
        "pixel-exact).\n"
        if folders
        else ""
    )
    return (
        "## Where these numbers come from\n\n"
        f"`{environment['command']}`, {environment['date']}, commit "
        f"{environment['git_commit']}; {versions}.\n\n"
        + _table(["network", "trained on", "trainings", "hours of one core"], body, 2)
        + images
    )
