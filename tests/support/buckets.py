"""Google Cloud Storage in memory, for code that reads and writes through fsspec."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

__all__ = ["Buckets", "use_buckets"]


class Buckets(MemoryFileSystem):
    """`gs://BUCKET/KEY` in this process, apart from `memory://`. Paths begin with "/", those of gcsfs do not."""

    protocol = "gs"
    store: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    pseudo_dirs: ClassVar[list[str]] = [""]  # type: ignore[misc]

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("gs://"))

    def unstrip_protocol(self, name: str) -> str:
        return "gs://" + self._strip_protocol(name).lstrip("/")


def use_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have fsspec take `gs://` for empty `Buckets`, without gcsfs, until the test ends."""
    Buckets.clear_instance_cache()
    monkeypatch.setattr(Buckets, "store", {})
    monkeypatch.setattr(Buckets, "pseudo_dirs", [""])
    # What register_implementation does; that has no counterpart which undoes it.
    monkeypatch.setitem(_registry, "gs", Buckets)
    monkeypatch.setattr("beam_jobs.shards.lock._IN_PROCESS", ("memory:", "gs:"))
