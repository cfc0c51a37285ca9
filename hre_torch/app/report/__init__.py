"""Figures and one HTML page about finished runs: ``hre-torch report RUN_DIR...``.

`read` turns run directories into checked records, `accuracy`, `phases` and `releases`
each draw what their name says in the manner of `theme`, `tables` finds the words for
the numbers, and `page` binds everything into one file that works offline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hre_torch.app.report.accuracy import accuracy_picture
from hre_torch.app.report.page import Plate, render_page
from hre_torch.app.report.phases import phases_picture
from hre_torch.app.report.read import read_runs
from hre_torch.app.report.releases import contributors_picture, staleness_picture
from hre_torch.app.report.theme import DARK, LIGHT, png
from hre_torch.errors import RunDirectoryError

__all__ = ["ReportFiles", "write_report"]

_PICTURES = (accuracy_picture, phases_picture, staleness_picture, contributors_picture)


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where the parts of a report were written.

    Attributes:
        page: The self-contained HTML page, ``report.html``.
        figures: The same figures as PNG files: ``accuracy.png``, ``phases.png``,
            ``staleness.png`` and ``contributors.png``.
    """

    page: Path
    figures: tuple[Path, ...]


def write_report(run_dirs: Sequence[Path], out: Path) -> ReportFiles:
    """Write figures and a page about one or several finished runs.

    Everything is read and drawn before the first file is written, so a damaged run
    leaves an older report as it was.

    Args:
        run_dirs: Run directories as ``hre-torch train --out`` writes them; several are
            overlaid, in this order.
        out: Directory for the report; made if missing, files in it are replaced.

    Raises:
        RunDirectoryError: A run directory is missing, unfinished or damaged, or `out`
            cannot be written.
    """
    runs = read_runs(run_dirs)
    plates = [
        Plate(picture, png(picture.draw(LIGHT)), png(picture.draw(DARK)))
        for picture in (describe(runs) for describe in _PICTURES)
    ]
    page = render_page(runs, plates)
    files = ReportFiles(
        page=out / "report.html",
        figures=tuple(out / f"{plate.picture.name}.png" for plate in plates),
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, plate in zip(files.figures, plates, strict=True):
            path.write_bytes(plate.light)
        files.page.write_bytes(page)
    except OSError as error:
        raise RunDirectoryError(
            f"The report cannot be written to {out}: {error}. "
            "Name a directory that you may write to."
        ) from error
    return files
