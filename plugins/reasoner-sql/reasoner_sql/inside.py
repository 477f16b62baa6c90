"""Runs in the sandbox: makes databases, runs one query that reads on each of them, and prints the rows as JSON.

It knows nothing of what is expected. `job.json` has `databases` (scripts), `query` and `rows`, the most rows.
"""

import json
import sqlite3
from pathlib import Path
from typing import Any

READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
REFUSED = {"load_extension", "random", "randomblob", "changes", "total_changes", "last_insert_rowid"}
"""functions whose value is not that of the data"""
MOST_BYTES = 10**6
"""of a value or a statement"""


def allow(action: int, name: str | None, function: str | None, *place: str | None) -> int:
    """SQLite asks for everything that a statement does."""
    reads = action in READS and not (action == sqlite3.SQLITE_FUNCTION and str(function).lower() in REFUSED)
    return sqlite3.SQLITE_OK if reads else sqlite3.SQLITE_DENY


def plain(value: Any) -> Any:
    """A value in JSON's own types."""
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def rows_of(script: str, query: str, most: int) -> dict[str, Any]:
    """The rows, or what SQLite says."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(script)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_BYTES)
    connection.set_authorizer(allow)
    try:
        cursor = connection.execute(query)
        rows = cursor.fetchmany(most + 1)
    except (sqlite3.Error, sqlite3.Warning, UnicodeError, OverflowError, MemoryError) as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    if cursor.description is None:
        return {"error": "it returns no rows: a SELECT is needed"}
    if len(rows) > most:
        return {"error": f"more than {most} rows"}
    return {"rows": [[plain(value) for value in row] for row in rows]}


if __name__ == "__main__":
    job = json.loads(Path("job.json").read_text(encoding="utf-8"))
    for database in job["databases"]:
        print(json.dumps(rows_of(database, job["query"], job["rows"])))  # noqa: T201
