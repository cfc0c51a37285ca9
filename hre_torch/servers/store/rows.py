"""The database of a store: nine tables, and a running sum over everything in them.

The *tally* is the sum of the SHA-256 of every row modulo 2^256, kept in the same
transaction as the rows. It costs one hash per changed row, and finds rows that are
damaged, missing, or left over. It guards against accidents; whoever can write the disk
can also write a new tally, and is stopped by signatures and hash chain only: these
cover the lists that are kept and the lines that they name, down to the oldest. What the
row of a participant says is under the tally alone.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

import hre_torch
from hre_torch.errors import StoreError
from hre_torch.servers.store.disk import NEW_TASK

__all__ = ["FORMAT", "Row", "Rows", "has_lost_log"]

FORMAT: Final = 4
_TALLY_BYTES: Final = 32
_BUSY_SECONDS: Final = 1.0
_LOG_LIMIT: Final = 16 << 20
"""Octets to which a write-ahead log that grew is cut back."""

Row = tuple[Any, ...]

_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "head": ("id", "format", "cfg", "role", "step", "made_by"),
    "uploads": (
        *("position", "digest", "name", "sequence", "base_version", "state_digests"),
        *("status", "version", "body"),
    ),
    "releases": ("version", "encoded", "body"),
    "bodies": ("id", "digest", "size", "filed"),
    "participants": ("name", "sequence", "fetched"),
    "models": ("version", "record"),
    "statements": ("id", "version", "record"),
    "verdicts": ("version", "record"),
    "evidence": ("id", "record"),
}
"""Columns under the tally, key first."""

_SCHEMA: Final = (
    "CREATE TABLE head (id INTEGER PRIMARY KEY, format, cfg, role, step, made_by, "
    "tally)",
    "CREATE TABLE uploads (position INTEGER PRIMARY KEY, digest, name, sequence, "
    "base_version, state_digests, status, version, body)",
    "CREATE TABLE releases (version INTEGER PRIMARY KEY, encoded, body)",
    "CREATE TABLE bodies (id INTEGER PRIMARY KEY, digest, size, filed)",
    "CREATE TABLE contents (id INTEGER PRIMARY KEY, content)",
    "CREATE TABLE participants (name PRIMARY KEY, sequence, fetched) WITHOUT ROWID",
    "CREATE TABLE models (version INTEGER PRIMARY KEY, record)",
    "CREATE TABLE statements (id INTEGER PRIMARY KEY, version, record)",
    "CREATE TABLE verdicts (version INTEGER PRIMARY KEY, record)",
    "CREATE TABLE evidence (id INTEGER PRIMARY KEY, record)",
    # Uploads are looked for by the list that has consumed them, 0 while none has.
    "CREATE INDEX consumed ON uploads (version, digest)",
)


class Rows:
    """The tables, opened so that a commit means: on the disk.

    Args:
        path: the database file; made if it is not there.

    Raises:
        StoreError: SQLite does not promise what durability needs.
        sqlite3.Error: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tally = 0
        self.connection = sqlite3.connect(
            path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._set_up()
        except BaseException:
            self.connection.close()
            raise

    def _set_up(self) -> None:
        for pragma, wanted, answer in (
            ("locking_mode", "EXCLUSIVE", "exclusive"),
            ("auto_vacuum", "INCREMENTAL", 2),
            ("journal_mode", "WAL", "wal"),
            ("synchronous", "FULL", 2),
            ("secure_delete", "OFF", 0),
            ("cell_size_check", "ON", 1),
            ("journal_size_limit", str(_LOG_LIMIT), _LOG_LIMIT),
        ):
            self.connection.execute(f"PRAGMA {pragma} = {wanted}").fetchall()
            (seen,) = self.connection.execute(f"PRAGMA {pragma}").fetchone()
            if seen != answer:
                raise StoreError(
                    f"SQLite answers {pragma} = {seen!r} for {self._path}, but "
                    f"{answer!r} is needed so that nothing acknowledged is lost; put "
                    "the store on a local disk"
                )

    @property
    def tally(self) -> bytes:
        """The running sum, 32 octets."""
        return self._tally.to_bytes(_TALLY_BYTES, "big")

    def is_new(self) -> bool:
        """Return whether there is no table yet."""
        return not self.connection.execute("SELECT 1 FROM sqlite_schema").fetchall()

    def create(self, cfg: bytes, role: str) -> None:
        """Make the tables of a new store."""
        self.begin()
        for statement in _SCHEMA:
            self.connection.execute(statement)
        self.insert("head", 0, FORMAT, cfg, role, 0, hre_torch.__version__)
        self._write_tally()
        self.commit()

    def begin(self) -> None:
        """Begin a transaction."""
        self.connection.execute("BEGIN IMMEDIATE")

    def advance(self) -> int:
        """Count the step that the transaction makes, and return its number."""
        (step,) = self.connection.execute("SELECT step FROM head").fetchone()
        self.change("head", 0, step=step + 1)
        self._write_tally()
        return int(step) + 1

    def commit(self) -> None:
        """Make the transaction durable; when this returns, it is."""
        self.connection.execute("COMMIT")

    def abandon(self) -> None:
        """Undo the transaction, as far as a failing disk lets us."""
        with suppress(sqlite3.Error):
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def insert(self, table: str, *row: Any) -> None:
        """Insert a row, given in the order of its columns."""
        columns = _COLUMNS[table]
        marks = ", ".join("?" * len(columns))
        self.connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", row
        )
        self._tally += _row_hash(table, row)
        self._wrap()

    def change(self, table: str, key: Any, **values: Any) -> None:
        """Change columns of one row."""
        columns = _COLUMNS[table]
        old = self.one(table, key)
        row = tuple(values.get(c, kept) for c, kept in zip(columns, old, strict=True))
        changes = ", ".join(f"{column} = ?" for column in values)
        self.connection.execute(
            f"UPDATE {table} SET {changes} WHERE {columns[0]} = ?",
            (*values.values(), key),
        )
        self._tally += _row_hash(table, row) - _row_hash(table, old)
        self._wrap()

    def delete(self, table: str, key: Any) -> Row:
        """Delete one row and return it."""
        old = self.one(table, key)
        self.connection.execute(
            f"DELETE FROM {table} WHERE {_COLUMNS[table][0]} = ?", (key,)
        )
        self._tally -= _row_hash(table, old)
        self._wrap()
        return old

    def one(self, table: str, key: Any) -> Row:
        """Return the row with a key.

        Raises:
            StoreError: there is none.
        """
        found = list(self.where(table, f"{_COLUMNS[table][0]} = ?", key))
        if len(found) != 1:
            raise StoreError(
                f"table {table} of {self._path} has lost row {key!r}; {NEW_TASK}"
            )
        return found[0]

    def where(self, table: str, condition: str, *values: Any) -> Iterator[Row]:
        """Return the rows under a condition, in the order of their keys."""
        columns = _COLUMNS[table]
        return self.connection.execute(
            f"SELECT {', '.join(columns)} FROM {table} WHERE {condition} "
            f"ORDER BY {columns[0]}",
            values,
        )

    def every(self, table: str) -> Iterator[Row]:
        """Return all rows of a table, in the order of their keys."""
        return self.where(table, "1")

    def next_key(self, table: str) -> int:
        """Return one more than the largest key."""
        key = _COLUMNS[table][0]
        (largest,) = self.connection.execute(
            f"SELECT max({key}) FROM {table}"
        ).fetchone()
        return 0 if largest is None else int(largest) + 1

    def findings(self) -> list[str]:
        """Check structure and tally; return what is wrong, in words.

        The tally goes on from what the rows give.

        Raises:
            StoreError: the store is not damaged, but of another format.
        """
        structure = [
            str(line) for (line,) in self.connection.execute("PRAGMA integrity_check")
        ]
        if structure != ["ok"]:
            return [f"SQLite finds the database damaged: {'; '.join(structure[:3])}"]
        schema = {
            sql
            for (sql,) in self.connection.execute("SELECT sql FROM sqlite_schema")
            if sql is not None
        }
        if schema != set(_SCHEMA):
            self._check_format()
            return ["the tables are not those of a store of this version"]
        self._tally = sum(
            _row_hash(table, row) for table in _COLUMNS for row in self.every(table)
        )
        self._wrap()
        heads = self.connection.execute("SELECT tally FROM head").fetchall()
        if heads != [(self.tally,)]:
            return ["rows of the database are damaged, missing or left over"]
        self._check_format()
        return []

    def shrink(self) -> None:
        """Give free pages back to the file system where most of the file is free.

        The pages of released uploads are used again by the next ones, so moving pages
        about after every release would be work for nothing.
        """
        (free,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        (pages,) = self.connection.execute("PRAGMA page_count").fetchone()
        if 2 * free > pages > _SMALL_PAGES:
            # One step of this statement frees one page, and only a script runs to the
            # end of a statement that returns rows without columns.
            self.connection.executescript("PRAGMA incremental_vacuum")
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def mark(self) -> None:
        """Write into the file itself, and not its log only, that it is in use.

        From here on the file alone may lack what was acknowledged: see `has_lost_log`.
        """
        self.connection.execute("PRAGMA user_version = 1")
        self.connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()

    def unmark(self) -> None:
        """Write that the file alone is complete, once it is closed."""
        self.connection.execute("PRAGMA user_version = 0")

    def close(self) -> None:
        """Close the database."""
        self.connection.close()

    def _check_format(self) -> None:
        """Refuse a store of another version, whose tables are other ones."""
        with suppress(sqlite3.Error):
            for head in self.connection.execute("SELECT * FROM head"):
                _, seen, *_ = head
                if not isinstance(seen, int) or seen == FORMAT:
                    continue
                made_by = "an earlier version of hre_torch"
                with suppress(sqlite3.Error):
                    query = "SELECT made_by FROM head"
                    (said,) = self.connection.execute(query).fetchone()
                    made_by = f"version {said} of hre_torch"
                raise StoreError(
                    f"{self._path} has format {seen}, made by {made_by}; this is "
                    f"version {hre_torch.__version__}, which reads format {FORMAT}: "
                    "end the task with the version that made the store, or start a new "
                    "task from the last released weights in an empty folder"
                )

    def _write_tally(self) -> None:
        self.connection.execute("UPDATE head SET tally = ?", (self.tally,))

    def _wrap(self) -> None:
        self._tally %= 1 << (8 * _TALLY_BYTES)


def has_lost_log(path: Path) -> bool:
    """Return whether a database that was not closed has no write-ahead log any more.

    SQLite would open it without a word, as it was when the log was last folded in.

    Args:
        path: the database file, not opened yet.
    """
    with path.open("rb") as file:
        file.seek(_USER_VERSION_AT)
        marked = any(file.read(4))
    log = path.with_name(f"{path.name}-wal")
    return marked and not (log.is_file() and log.stat().st_size)


_USER_VERSION_AT: Final = 60
"""Where a database file keeps `user_version` ("Database File Format", 1.3)."""
_SMALL_PAGES: Final = 256
"""One megabyte of pages: below it, shrinking is not worth a write."""


def _row_hash(table: str, row: Row) -> int:
    encoded = msgspec.msgpack.encode((table, *row))
    return int.from_bytes(hashlib.sha256(encoded).digest(), "big")
