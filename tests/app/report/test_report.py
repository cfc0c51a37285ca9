"""The report is drawn from any finished run, looks at nothing else, and is safe."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from hre_torch.app.report import write_report
from hre_torch.app.report.accuracy import _scale_accuracy, _spread
from hre_torch.app.report.read import read_runs
from hre_torch.app.report.tables import identical_weights
from hre_torch.errors import RunDirectoryError


class _Page(HTMLParser):
    """Collects the elements and the text of a page."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_a_report_is_four_pictures_and_a_page(report):
    names = [path.name for path in report.figures]
    assert names == ["accuracy.png", "phases.png", "staleness.png", "contributors.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in report.figures)
    assert report.page.read_bytes().startswith(b"<!DOCTYPE html>")


def test_the_page_refers_to_nothing_outside_itself(report):
    page = _Page(report.page)
    links = [
        value
        for _, attributes in page.elements
        for key, value in attributes.items()
        if key in {"src", "srcset", "href", "action", "data"}
    ]
    assert links
    assert all(link.startswith("data:image/png;base64,") for link in links)
    style = "".join(page.text)
    assert "url(" not in style
    assert "@import" not in style
    assert not page.named("script")


def test_the_page_forbids_every_request_by_its_own_policy(report):
    page = _Page(report.page)
    (policy,) = [m["content"] for m in page.named("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'")


def test_each_picture_is_there_for_light_and_for_dark_paper(report):
    page = _Page(report.page)
    light = [image["src"] for image in page.named("img")]
    dark = [source["srcset"] for source in page.named("source")]
    assert len(light) == len(dark) == 4
    assert not set(light) & set(dark)


def test_each_picture_says_in_words_what_it_shows(report):
    page = _Page(report.page)
    accuracy, phases, staleness, contributors = [i["alt"] for i in page.named("img")]
    assert "digits-paper ends at 96.6 % after 480 local steps" in accuracy
    assert "second phase (KTS) 151 ms" in phases
    assert "480 updates, mean 2.0, 90 % at most 3, largest 4" in staleness
    assert "p3 in" in contributors


def test_names_cannot_become_markup_or_mathematics(make_run, tmp_path):
    hostile = "<script>alert(1)</script>"
    run = make_run("a_$x^{<b>&", participants=(hostile, "_$y_{"), epochs=1)
    (run / "recipe.yaml").write_text(f"name: {hostile}</pre><img src=x>\n")
    page = _Page(write_report([run], tmp_path / "report").page)
    assert not page.named("script")
    assert len(page.named("img")) == 4
    assert any(hostile in text for text in page.text)
    assert "a_$x^{<b>&" in page.text


def test_equal_runs_give_equal_reports(make_run, tmp_path):
    run = make_run(epochs=1)
    one = write_report([run], tmp_path / "one").page.read_bytes()
    assert one == write_report([run], tmp_path / "two").page.read_bytes()


def test_runs_with_identical_weights_are_pointed_out(report):
    text = "".join(_Page(report.page).text)
    assert "Bit-identical final weights: digits-paper, digits-plain." in text


def test_runs_with_different_weights_are_not_said_to_agree(make_run):
    runs = read_runs([make_run(epochs=1), make_run("other", epochs=1, seed=2)])
    assert identical_weights(runs) == []


def test_a_run_without_any_event_still_has_a_report(make_run, tmp_path):
    run = make_run(events=False, phases_ms={}, predicted={})
    page = _Page(write_report([run], tmp_path).page)
    assert page.named("img")[0]["alt"].endswith("digits-paper was never evaluated.")


def test_sixty_participants_and_a_thousand_releases_are_drawn(make_run, tmp_path):
    names = tuple(f"p{index}" for index in range(60))
    run = make_run(participants=names, epochs=1)
    assert write_report([run], tmp_path).figures[3].stat().st_size > 0
    assert read_runs([run])[0].participants == names


def test_every_entry_of_the_summary_is_in_the_table(make_run, tmp_path):
    run = make_run(epochs=1, opened_by="nobody", resumed=True)
    text = _Page(write_report([run], tmp_path / "report").page).text
    assert {"opened by", "nobody", "resumed", "yes", "hre torch", "0.1.0"} <= set(text)


def test_labels_of_equal_ends_do_not_cover_each_other():
    heights = _spread([96.0, 96.0, 50.0, 95.0], gap=5.0, ceiling=100.0)
    assert heights == [96.0, 91.0, 50.0, 86.0]


@pytest.mark.parametrize("lowest", [0.0, 5.0, 42.0, 90.6, 94.9])
def test_no_axis_promises_more_than_everything_right(lowest):
    axes = Figure().subplots()
    _scale_accuracy(axes, lowest)
    ticks = list(axes.get_yticks())
    assert max(ticks) == 100.0
    assert len(ticks) >= 3
    low, high = axes.get_ylim()
    assert low == lowest
    assert high > 100.0


def test_a_place_that_cannot_be_written_is_refused(make_run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        write_report([make_run(epochs=1)], tmp_path / "file")


def test_a_damaged_run_leaves_an_older_report_as_it_was(make_run, tmp_path):
    run, out = make_run(epochs=1), tmp_path / "report"
    before = write_report([run], out).page.read_bytes()
    (run / "summary.json").write_text("{}")
    with pytest.raises(RunDirectoryError):
        write_report([run], out)
    assert (out / "report.html").read_bytes() == before


def test_drawing_does_not_touch_pyplot():
    script = (
        "import sys, hre_torch.app.report;"
        "raise SystemExit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
