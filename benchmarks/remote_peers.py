"""The peers of benchmarks/remote.py, each a whole process of its own, at the best settings that were found for it.

    PYTHON benchmarks/remote_peers.py READER {crop,raw} URL CACHE RECORDS [--seconds 3]

URL is the output of benchmarks/read_formats.py in a bucket; the environment has the store's address and keys. Each peer
has a DataLoader with two workers and batches of 256, and decodes as in benchmarks/read_peers.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from read_decode import BATCH, PYTHON, SIZE, collated, decoder, torch_options
from read_timing import Epoch
from remote_timing import Streamer, measure

AHEAD = 16 * BATCH


def decoding(task: str) -> Callable[[Any], np.ndarray]:
    """From a payload to an image of 224x224."""
    return decoder(task, (SIZE, SIZE, 3))


def store() -> Any:
    """A client of the object store, and the environment of those that have one of their own."""
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(signature_version="s3v4"))


def mosaicml(task: str, place: str, cache: str) -> Callable[[], Epoch]:
    """MosaicML streaming: all shards are kept; its default shuffle, "py1e", within blocks of 4,096 records.

    By default a block would be all of these records, and the first batch from nearly all shards (7 to 9 s). Its
    workers fetch the shards of the next `predownload` samples, each worker one shard at a time.
    """
    import boto3  # noqa: F401 (its workers would import it, each for itself)
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    decode = decoding(task)

    class Decoded(StreamingDataset):
        """Its records, decoded."""

        def __getitem__(self, index: Any) -> tuple[np.ndarray, int]:
            sample = super().__getitem__(index)
            return decode(sample["image"]), sample["label"]

    clean_stale_shared_memory()

    def opened() -> Epoch:
        ahead = {"predownload": AHEAD, "shuffle_block_size": AHEAD}
        data = Decoded(remote=place, local=f"{cache}/mosaicml", shuffle=True, batch_size=BATCH, **ahead)
        for part in data.streams:
            # Its workers would go on with the connection that has brought the index, both of them with the same one:
            # they wait for a minute, or read each other's shard.
            part._downloader.clean_up()
        loader = DataLoader(data, batch_size=BATCH, collate_fn=collated, **torch_options())
        return lambda: iter(loader)

    return opened


def litdata(task: str, place: str, cache: str) -> Callable[[], Epoch]:
    """litdata: its own loader; it shuffles chunks, and the records in each of them. Chunks come by obstore.

    A worker fetches them one by one, in four ranges at once. By default it would begin with seven at once, up to 3 GB,
    and ignore `max_pre_download`: 7 s to the first batch.
    """
    os.environ["LITDATA_ASYNC_DOWNLOAD_CONCURRENCY"] = "1"
    import boto3  # noqa: F401 (as above)
    import obstore  # noqa: F401
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    decode = decoding(task)
    # The store here has no TLS, which obstore takes for a mistake, and litdata has no option to say so.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True

    class Decoded(StreamingDataset):
        """Its records, decoded."""

        def __getitem__(self, index: Any) -> tuple[np.ndarray, int]:
            sample = super().__getitem__(index)
            return decode(sample["image"]), sample["label"]

    def opened() -> Epoch:
        data = Decoded(
            place,
            cache_dir=f"{cache}/litdata",
            shuffle=True,
            drop_last=False,
            max_cache_size="50GB",
            storage_options={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
        )
        loader = StreamingDataLoader(data, batch_size=BATCH, collate_fn=collated, **torch_options())
        return lambda: iter(loader)

    return opened


def webdataset(task: str, place: str, cache: str, keep: bool = True) -> Callable[[], Epoch]:
    """WebDataset: tar files in random order, a buffer of 1,000 records. It reads signed URLs, with curl."""
    import webdataset as wds
    from torch.utils.data import DataLoader

    client, decode = store(), decoding(task)

    def signed() -> Iterator[str]:
        bucket, prefix = urlsplit(place).netloc, urlsplit(place).path[1:]
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
            for found in page["Contents"]:
                key = {"Bucket": bucket, "Key": found["Key"]}
                yield client.generate_presigned_url("get_object", Params=key, ExpiresIn=24 * 3600)

    def opened() -> Epoch:
        shards = sorted(signed())
        Path(cache, "webdataset").mkdir()
        data = (
            wds.WebDataset(shards, shardshuffle=len(shards), cache_dir=f"{cache}/webdataset" if keep else None)
            .shuffle(1000)
            .decode(wds.handle_extension("jpg raw", decode))
            .to_tuple("jpg;raw", "cls")
            .batched(BATCH, collation_fn=collated)
        )
        loader = DataLoader(data, batch_size=None, **torch_options())
        return lambda: iter(loader)

    return opened


def webdataset_uncached(task: str, place: str, cache: str) -> Callable[[], Epoch]:
    """Straight from the pipe."""
    return webdataset(task, place, cache, keep=False)


READERS = {
    "mosaicml": Streamer(mosaicml, ("mosaicml-streaming", "boto3", *PYTHON)),
    "litdata": Streamer(litdata, ("litdata", "obstore", *PYTHON)),
    "webdataset": Streamer(webdataset, ("webdataset", *PYTHON)),
    "webdataset-uncached": Streamer(webdataset_uncached, ("webdataset", *PYTHON), keeps=False),
}

if __name__ == "__main__":
    measure(__doc__, READERS)
