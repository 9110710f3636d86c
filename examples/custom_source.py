"""A custom source: images in an SQLite database, with a class and a caption each.

    image-shards prepare photos.db shards --source custom_source:Database      (in this folder)

A source lists references and opens one. The launcher makes an instance and lists; every worker makes one
from the same options, and reads. On a cluster, the module has to be on the workers, too.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

from beam_jobs.sources import Entry, Layout, Reference, Source


class Database(Source):
    """The rows of `CREATE TABLE photos (name TEXT PRIMARY KEY, class TEXT, caption TEXT, jpeg BLOB)`."""

    def entries(self) -> Iterator[Entry]:
        """An entry for each row: its id, its size in bytes, its label, and the other fields of its record."""
        with closing(self._open()) as database:
            for name, label, caption, size in database.execute("SELECT name, class, caption, length(jpeg) FROM photos"):
                yield Entry(id=name, size=size, label=label, fields={"caption": caption})

    def layout(self) -> Layout:
        """A description of INPUT, for messages."""
        return Layout(text="an SQLite database of photos")

    def read(self, reference: Reference) -> bytes:
        """The bytes of one image."""
        with closing(self._open()) as database:
            row = database.execute("SELECT jpeg FROM photos WHERE name = ?", (reference.id,)).fetchone()
        if row is None:
            raise FileNotFoundError(reference.id)
        return bytes(row[0])

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.options.input}?mode=ro", uri=True)
