"""The page on audits tells of every tampering, and what the audit says of it."""

from __future__ import annotations

import re
from pathlib import Path

import hre_torch
from tests.app.audit.tamperings import TAMPERINGS

PAGE = Path(hre_torch.__file__).parent / "app" / "audit" / "README.md"


def test_the_page_tells_of_every_tampering_as_the_audit_does():
    table = PAGE.read_text().split("\n## Tamperings\n")[1]
    rows = re.findall(r"^\| (\w+) \| (.+) \| (yes|no) \| (.+) \|$", table, re.M)
    assert [row[:3] for row in rows] == [
        (t.by, t.name, "yes" if t.old else "no") for t in TAMPERINGS
    ]
    for row, tampering in zip(rows, TAMPERINGS, strict=True):
        assert re.match(tampering.message, row[3]), row
    assert len(rows) >= 20
