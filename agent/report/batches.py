"""The sealed batches in a spool. Works within the transaction of whoever calls; counts nothing."""

from agent.report import sealing
from agent.report.spool_db import Database, UnusableFileError
from agent.report.spool_records import SealedBatch

# SQLite checks no types when it reads a damaged row.
_CREATED = "SELECT CAST(COALESCE(created, 0) AS REAL) FROM batch WHERE n = ? AND id = ?"
_TYPES = (int, str, str, str, int, int, int, bytes)


class Batches:
    """The sealed batches of one spool.

    Args:
        db: Its database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, encoded: sealing.Encoded, events: int, first: int, last: int, created: float) -> SealedBatch:
        """Keep a batch of ``events`` events, from sequence ``first`` to ``last``."""
        n = self._db.execute(
            "INSERT INTO batch (id, content_type, encoding, events, first_seq, last_seq, created, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (encoded.id, encoded.content_type, encoded.encoding, events, first, last, created, encoded.body)).lastrowid
        assert n is not None
        return SealedBatch(n, encoded.id, encoded.content_type, encoded.encoding, events, first, last, encoded.body)

    def oldest(self) -> SealedBatch | None:
        """Return the batch that goes out next, if there is one."""
        row = self._db.execute(
            f"SELECT {', '.join(SealedBatch._fields)} FROM batch ORDER BY first_seq LIMIT 1").fetchone()  # noqa: S608 -- our own names
        if row is not None and tuple(map(type, row)) != _TYPES:
            raise UnusableFileError("a sealed batch has values of the wrong type", "the file is damaged; it is kept")
        return None if row is None else SealedBatch(*row)

    def take_out(self, batch: SealedBatch) -> float | None:
        """Delete a batch and return when its first event was created.

        None when it is not there: the file is a fresh one, made while the batch was on its way.
        """
        created = self._db.one(_CREATED, (batch.n, batch.id))
        if created is None:
            return None
        self._db.execute("DELETE FROM batch WHERE n = ?", (batch.n,))
        return float(created)
