"""What `hre-torch db check` says of a store."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from hre_torch.errors import StoreError
from hre_torch.servers.store.blobs import BlobStore, BodyFiles
from hre_torch.servers.store.contents import Contents, read_contents, told_as_lost
from hre_torch.servers.store.disk import disk_errors
from hre_torch.servers.store.rows import Rows, has_lost_log
from hre_torch.servers.store.store import BODIES, DATABASE, WITNESS
from hre_torch.servers.store.witness import Witness, contradiction, unwitnessed

__all__ = ["StoreReport", "check_store"]


@dataclass(slots=True)
class StoreReport:
    """What a check of a store saw.

    Attributes:
        role: `"dsp"` or `"kts"`.
        task: hash of the task, hexadecimal.
        made_by: version of hre_torch that made the store.
        step: number of transactions so far.
        version: number of releases so far.
        chain: hash chain over them, hexadecimal: the same at both servers.
        uploads: how many uploads are pending, accepted, released, expired, among those
            about which somebody may still ask.
        kept: releases that somebody has still to fetch.
        evidence: records of broken rules.
        octets: what the folder takes on the disk.
        repairs: damage that the next start repairs by itself, in words.
        findings: damage that keeps the server from starting, in words; empty for a
            sound store.
    """

    role: str = ""
    task: str = ""
    made_by: str = ""
    step: int = 0
    version: int = 0
    chain: str = ""
    uploads: dict[str, int] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)
    evidence: int = 0
    octets: int = 0
    repairs: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def check_store(folder: Path) -> StoreReport:
    """Check a store that no server has open; changes nothing in it.

    SQLite itself would tidy up when it opens and closes a database, so a copy of the
    database is looked at, in the folder for temporary files.

    Args:
        folder: the store's folder.

    Raises:
        StoreError: there is no store in the folder, or a server has it open.
    """
    if not (folder / WITNESS).is_file() and not (folder / DATABASE).is_file():
        raise StoreError(
            f"{folder} holds no store of a server; name the folder that `hre-torch "
            "serve` was given"
        )
    report = StoreReport()
    with disk_errors(folder):
        witness = Witness(folder / WITNESS)
        try:
            report.octets = sum(
                path.stat().st_size for path in folder.rglob("*") if path.is_file()
            )
            with TemporaryDirectory() as scratch:
                for path in folder.glob(f"{DATABASE}*"):
                    shutil.copyfile(path, Path(scratch, path.name))
                try:
                    _check(folder, Path(scratch), witness, report)
                except StoreError as error:
                    report.findings.append(str(error))
        finally:
            witness.close()
    return report


def _check(folder: Path, scratch: Path, witness: Witness, report: StoreReport) -> None:
    if (scratch / DATABASE).is_file():
        lost = has_lost_log(scratch / DATABASE)
        complaint = unwitnessed(witness.read(), log_lost=lost)
        report.findings += [complaint] if complaint else []
    with disk_errors(folder):
        rows = Rows(scratch / DATABASE)
        try:
            blobs = BlobStore(rows, BodyFiles(folder / BODIES))
            contents = Contents() if rows.is_new() else read_contents(rows, blobs, None)
            tally = rows.tally
        finally:
            rows.close()
    _fill(report, contents)
    if not contents.findings:
        complaint = contradiction(witness.read(), contents.step, tally)
        report.findings += [complaint] if complaint else []


def _fill(report: StoreReport, contents: Contents) -> None:
    report.role = contents.role
    report.task = contents.cfg.hex()
    report.made_by = contents.made_by
    report.step = contents.step
    report.version = contents.ledger.version
    report.chain = contents.ledger.chain.hex()
    report.uploads = dict(Counter(entry.status for entry in contents.ledger.entries))
    report.kept = sorted(contents.releases)
    report.evidence = len(contents.evidence)
    report.findings += contents.findings
    report.repairs += [
        f"the sum of release {version} is damaged and will be computed again from its "
        "uploads"
        for version in contents.rebuild
    ]
    report.repairs += [told_as_lost(entry) for entry in contents.lost]
