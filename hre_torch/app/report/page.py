"""The HTML page of a report: one file that needs nothing else and asks for nothing.

The page is built as an element tree and serialised by the standard library, so text
from recipes, file names and metrics can only ever become text. A content security
policy inside the page forbids every request, which makes "works offline" something the
browser enforces.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Final, NamedTuple
from xml.etree.ElementTree import Element, tostring

from hre_torch.app.report.read import Run
from hre_torch.app.report.tables import (
    Comparison,
    comparisons,
    identical_weights,
    summary_rows,
)
from hre_torch.app.report.theme import Picture, duration, number, percent, size

__all__ = ["Plate", "render_page"]

_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Plate(NamedTuple):
    """A picture with its two renderings, PNG files for light and for dark paper."""

    picture: Picture
    light: bytes
    dark: bytes


def render_page(runs: Sequence[Run], plates: Iterable[Plate]) -> bytes:
    """Return the page about these runs as UTF-8 HTML."""
    labels = ", ".join(run.label for run in runs)
    head = _tag(
        "head",
        _tag("meta", charset="utf-8"),
        _tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _tag("title", f"hre_torch report: {labels}"),
        _tag("style", _stylesheet()),
    )
    header = _tag(
        "header",
        _tag("h1", "Training report"),
        _tag("p", _introduction(runs), class_="quiet"),
    )
    main = _tag(
        "main",
        _tag("div", *(_card(run) for run in runs), class_="cards"),
        *_same_weights(runs),
        *(_figure(plate) for plate in plates),
        *(_predictions(run) for run in runs if run.start.predicted),
        _summaries(runs),
        _recipes(runs),
    )
    footer = _tag("footer", "Written by hre-torch report. This file is self-contained.")
    page = _tag("html", head, _tag("body", header, main, footer), lang="en")
    text = tostring(page, encoding="unicode", method="html", short_empty_elements=False)
    return ("<!DOCTYPE html>\n" + text + "\n").encode("utf-8", "xmlcharrefreplace")


def _tag(name: str, /, *content: str | Element, **attributes: str) -> Element:
    """Make one element; attributes are written `class_` and `aria_label`."""
    element = Element(
        name,
        {key.rstrip("_").replace("_", "-"): text for key, text in attributes.items()},
    )
    for part in content:
        if isinstance(part, Element):
            element.append(part)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + part
        else:
            element.text = (element.text or "") + part
    return element


def _stylesheet() -> str:
    return resources.files(__package__).joinpath("page.css").read_text("utf-8")


def _introduction(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        run = runs[0].summary
        return (
            f"{run.participants} participants trained {number(run.parameters)} "
            f"parameters in {duration(run.seconds)}."
        )
    return f"{len(runs)} runs side by side."


def _card(run: Run) -> Element:
    summary = run.summary
    accuracy = summary.test_accuracy
    facts = {
        "time": duration(summary.seconds),
        "releases": number(summary.releases),
        "sent": size(summary.bytes_up),
        "received": size(summary.bytes_down),
    }
    return _tag(
        "section",
        _tag("h2", run.label),
        _tag("span", f"suite {summary.suite}", class_="badge"),
        _tag("span", f"profile {summary.profile}", class_="badge"),
        _tag("p", "—" if accuracy is None else percent(accuracy), class_="big"),
        _tag("p", "test accuracy", class_="quiet"),
        _tag(
            "dl",
            *(
                _tag("div", _tag("dt", name), _tag("dd", value))
                for name, value in facts.items()
            ),
        ),
    )


def _same_weights(runs: Sequence[Run]) -> list[Element]:
    """Say which runs ended with the very same weights; that is never by accident."""
    return [
        _tag(
            "section",
            _tag(
                "p",
                f"Bit-identical final weights: {', '.join(group)}. ",
                "Equal SHA-256 of weights.safetensors; how the updates were protected ",
                "made no difference to what was learned.",
            ),
            class_="equal",
        )
        for group in identical_weights(runs)
    ]


def _figure(plate: Plate) -> Element:
    picture = plate.picture
    return _tag(
        "section",
        _tag("h2", picture.title),
        _tag(
            "figure",
            _tag(
                "picture",
                _tag(
                    "source",
                    srcset=_data_url(plate.dark),
                    media="(prefers-color-scheme: dark)",
                ),
                _tag("img", src=_data_url(plate.light), alt=picture.alt),
            ),
            _tag("figcaption", picture.caption),
        ),
    )


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _predictions(run: Run) -> Element:
    rows = [
        _tag(
            "tr",
            _tag("th", row.title, scope="row"),
            *(_tag("td", text, class_="number") for text in _cells(row)),
        )
        for row in comparisons(run)
    ]
    headings = ("predicted", "measured", "measured / predicted")
    return _tag(
        "section",
        _tag("h2", f"Predicted and measured: {run.label}"),
        _table(
            "What the estimate said before the run, and what the run took.",
            [_tag("td"), *(_heading(text, "number") for text in headings)],
            rows,
        ),
    )


def _cells(row: Comparison) -> tuple[str, str, str]:
    ratio = row.ratio
    return (
        row.predicted,
        row.measured or "—",
        "—" if ratio is None else f"{ratio:.2f}",
    )


def _summaries(runs: Sequence[Run]) -> Element:
    rows = [
        _tag(
            "tr", _tag("th", title, scope="row"), *(_tag("td", cell) for cell in cells)
        )
        for title, cells in summary_rows(runs)
    ]
    return _tag(
        "section",
        _tag("h2", "Summary"),
        _table(
            "Every entry of summary.json; times per phase are in the figure above.",
            [_tag("td"), *(_heading(run.label) for run in runs)],
            rows,
        ),
    )


def _heading(text: str, kind: str = "text") -> Element:
    return _tag("th", text, class_=kind, scope="col")


def _table(
    caption: str, headings: Iterable[Element], rows: Iterable[Element]
) -> Element:
    # Wide tables scroll inside a region that the keyboard reaches too.
    return _tag(
        "div",
        _tag(
            "table",
            _tag("caption", caption),
            _tag("thead", _tag("tr", *headings)),
            _tag("tbody", *rows),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def _recipes(runs: Sequence[Run]) -> Element:
    return _tag(
        "section",
        _tag("h2", "Recipes"),
        _tag("p", "The resolved recipe of each run.", class_="quiet"),
        *(
            _tag("details", _tag("summary", run.label), _tag("pre", run.recipe))
            for run in runs
        ),
    )
