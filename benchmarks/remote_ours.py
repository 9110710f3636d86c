"""This project's reader in benchmarks/remote.py: from the object store, with and without a cache, and from a disk.

    python benchmarks/remote_ours.py READER {crop,raw} PLACE CACHE RECORDS [--seconds 3]

PLACE is a URL, or for "local" a folder. The order is `shuffle="window"`, the one for remote storage, for all readers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from read_ours import BATCH, PACKAGES, THREADS, transforms
from read_timing import Epoch
from remote_timing import Streamer, measure

# The first batch needs all shards of a window in each lane, some 8 of 16 MB: less than a second at 200 MB/s.
ORDER = {"shuffle": "window", "lanes": 4, "window": 2, "seed": 0}


class Batches:
    """An epoch at each call, and the stream's statistics of its requests."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __call__(self) -> Any:
        return ((batch["image"], batch["label"]) for batch in self._stream)

    def stats(self) -> dict[str, float]:
        """Of all epochs."""
        return asdict(self._stream.stats())


def ours(task: str, place: str, folder: str, *, is_cached: bool = False, **storage: Any) -> Callable[[], Epoch]:
    """Batches of a stream, its windows shuffled; `storage` goes to `open_dataset`."""
    import s3fs  # noqa: F401 (imports are not timed, and it takes longest)

    from shard_reader import open_dataset

    if is_cached:
        storage |= {"cache": f"{folder}/image-shards", "cache_bytes": "50GB"}
    image = transforms(task)

    def opened() -> Epoch:
        data = open_dataset(place, split="train", **storage)
        return Batches(data.stream(batch_size=BATCH, threads=THREADS, prefetch=2, image=image, **ORDER))

    return opened


REMOTE = (*PACKAGES, "fsspec", "s3fs", "aiobotocore", "aiohttp")
READERS = {
    "ours": Streamer(partial(ours, is_cached=True), REMOTE),
    "ours-uncached": Streamer(partial(ours, ahead_bytes="512MB"), REMOTE, keeps=False),
    "local": Streamer(ours, PACKAGES),
}

if __name__ == "__main__":
    measure(__doc__, READERS)
