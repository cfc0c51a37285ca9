"""The report in a real browser, without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest
from PIL import Image

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
OFFLINE = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Whatever the page asks another machine for fails.
    "--host-resolver-rules=MAP * ~NOTFOUND",
]

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


def browse(page, folder, *options):
    command = [BROWSER, *OFFLINE, f"--user-data-dir={folder / 'profile'}", *options]
    run = subprocess.run([*command, page.as_uri()], capture_output=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout.decode()


@pytest.fixture(scope="module")
def screenshot(report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    picture = folder / "report.png"
    browse(report.page, folder, "--window-size=1200,3000", f"--screenshot={picture}")
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB"))


def test_the_page_fills_the_window_it_is_given(screenshot):
    height, width, _ = screenshot.shape
    assert (width, height) == (1200, 3000)


def test_every_part_of_the_page_shows_something(screenshot):
    # Cards are white with dark text or drawings on them; an image that did not load, or
    # a style sheet that is not applied, leaves bands of one colour.
    for band in np.array_split(screenshot, 10):
        assert (band.min(axis=(1, 2)) < 128).mean() > 0.02


def test_the_drawings_are_painted_in_the_colours_of_the_theme(screenshot):
    pixels = Counter(map(tuple, screenshot[::4, ::4].reshape(-1, 3).tolist()))
    coloured = [p for p, n in pixels.items() if max(p) - min(p) > 60 and n > 20]
    assert coloured


def test_the_page_fits_a_telephone_of_420_pixels(report, tmp_path):
    # A window is never that narrow, a frame is.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe src='{report.page.as_uri()}' width=420 height=6000></iframe>"
        "<script>const frame = document.querySelector('iframe');"
        "frame.onload = () => {"
        " const all = [...frame.contentDocument.querySelectorAll('body *')];"
        " const right = all.map(e => e.getBoundingClientRect().right);"
        " document.title = all.length + ' parts, ' + Math.max(...right) + ' wide'"
        "}</script>"
    )
    options = ("--allow-file-access-from-files", "--virtual-time-budget=5000")
    loaded = browse(frame, tmp_path, *options, "--dump-dom")
    parts, width = re.search(r"<title>(\d+) parts, ([\d.]+) wide", loaded).groups()
    assert int(parts) > 50
    assert float(width) <= 420


def test_the_page_keeps_every_picture_after_loading(report, tmp_path):
    loaded = browse(report.page, tmp_path, "--dump-dom")
    pictures = re.findall(r"<img[^>]*src=\"([^\"]{0,30})", loaded)
    assert pictures
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
