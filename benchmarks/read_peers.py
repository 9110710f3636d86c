"""The peers of benchmarks/read.py, each a whole process of its own, at the best settings that were found for it.

    PYTHON benchmarks/read_peers.py PEER {crop,rrc,raw,random} DATASET WRITTEN [--seconds 3] [--cold]

DATASET is a dataset of this project, WRITTEN the same records as benchmarks/read_formats.py wrote them for PEER. It
prints JSON: images/s after an unmeasured epoch, seconds of CPU for an image, and versions; or the missing package.
"crop" is the middle 224x224 of a JPEG with a short side of 256, "rrc" a RandomResizedCrop of 224 (scale 0.08 to 1,
ratio 3/4 to 4/3) and a flip, "raw" is pixels, "random" one record after the other.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from read_data import Records
from read_decode import BATCH, PYTHON, RATIO, SCALE, SIZE, WORKERS, collated, decoder, tensorflow_crop, torch_options
from read_formats import LABEL
from read_peers_arrow import datasets, lancedb, spdl, spdl_decoder
from read_timing import Epoch, Reader, measure


def ffcv(task: str, dataset: str, written: str, quasi: bool = False) -> Epoch:
    """FFCV: a random order of all records; memory maps (os_cache), which is for data that fit in memory.

    Its decoder always has the fast DCT (TJFLAG_FASTDCT in libffcv.cpp), and interpolates chroma. Batches are the arrays
    that it makes anyway, without ToTensor. Tried: `batches_ahead` of 2, 3 and 6 are the same; for small images one
    thread is a tenth faster than two; Numba's threads by TBB (which libopencv-dev brings along) are faster than its
    own, by OpenMP much slower.
    """
    from ffcv.fields.decoders import (
        CenterCropRGBImageDecoder,
        IntDecoder,
        RandomResizedCropRGBImageDecoder,
        SimpleRGBImageDecoder,
    )
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip

    small = task == "raw" and max(Records(dataset).shape) <= 64
    image = {
        "crop": lambda: [CenterCropRGBImageDecoder((SIZE, SIZE), ratio=SIZE / 256)],
        "rrc": lambda: [RandomResizedCropRGBImageDecoder((SIZE, SIZE), SCALE, RATIO), RandomHorizontalFlip()],
        "raw": lambda: [SimpleRGBImageDecoder()],
    }[task]()
    loader = Loader(
        written,
        batch_size=BATCH,
        num_workers=1 if small else WORKERS,
        order=OrderOption.QUASI_RANDOM if quasi else OrderOption.RANDOM,
        os_cache=not quasi,
        drop_last=False,
        batches_ahead=3,
        pipelines={"image": image, "label": [IntDecoder()]},
    )
    return lambda: iter(loader)


def ffcv_quasi(task: str, dataset: str, written: str) -> Epoch:
    """As its authors advise for data that do not fit in memory: its own reads, page by page, and an order to suit."""
    return ffcv(task, dataset, written, quasi=True)


def dali_pipeline(task: str, dataset: str, written: str, fast: bool) -> Epoch:
    """DALI on the CPU: its TFRecord reader, and its decoder, that decodes no more than the crop needs.

    Its order is that of a buffer of 1,024 records, not of all. Batches stay DALI's own. Tried for "rrc": to decode all
    of an image and `random_resized_crop` (half as many), to flip in `crop_mirror_normalize` (half as many).
    """
    import nvidia.dali.fn as fn
    import nvidia.dali.tfrecord as tfrec
    from nvidia.dali import pipeline_def, types

    records = Records(dataset)
    features = {
        "image": tfrec.FixedLenFeature((), tfrec.string, ""),
        "label": tfrec.FixedLenFeature([1], tfrec.int64, -1),
    }

    @pipeline_def(batch_size=BATCH, num_threads=WORKERS, device_id=None, prefetch_queue_depth=2)
    def pipeline():
        inputs = fn.readers.tfrecord(
            path=records.files,
            index_path=[f"{written}/{Path(file).name}.idx" for file in records.files],
            features=features,
            random_shuffle=True,
            initial_fill=1024,
            name="reader",
        )
        image = inputs["image"]
        if task == "crop":
            image = fn.decoders.image_crop(image, device="cpu", crop=(SIZE, SIZE), use_fast_idct=fast)
        elif task == "rrc":
            image = fn.decoders.image_random_crop(
                image, device="cpu", random_area=SCALE, random_aspect_ratio=RATIO, use_fast_idct=fast
            )
            image = fn.resize(image, size=(SIZE, SIZE), interp_type=types.INTERP_LINEAR, antialias=False)
            image = fn.flip(image, horizontal=fn.random.coin_flip())
        else:
            image = fn.reshape(image, shape=records.shape)
        return image, inputs["label"]

    made = pipeline()
    made.build()
    return lambda: (made.run() for _ in range(-(-len(records) // BATCH)))


def dali(task: str, dataset: str, written: str) -> Epoch:
    """With the exact DCT."""
    return dali_pipeline(task, dataset, written, fast=False)


def dali_fast(task: str, dataset: str, written: str) -> Epoch:
    """With the fast DCT; it interpolates chroma all the same."""
    return dali_pipeline(task, dataset, written, fast=True)


def tf_data(task: str, dataset: str, written: str, fast: bool = False) -> Epoch:
    """tf.data on our TFRecords, tuned by hand: two threads of its own, order not kept.

    Its order is that of a buffer of 1,024 records. Tried: AUTOTUNE, and TensorFlow's common threads, are no faster.
    Raw images are parsed and decoded a batch at a time: one by one is much slower for small ones. `fast` is the fast
    DCT and chroma without interpolation, as in our reader's `fast`.
    """
    import tensorflow as tf

    records = Records(dataset)
    method = {"dct_method": "INTEGER_FAST" if fast else "INTEGER_ACCURATE", "fancy_upscaling": not fast}
    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def crop(jpeg: Any) -> Any:
        shape = tf.io.extract_jpeg_shape(jpeg)
        top, left = (shape[0] - SIZE) // 2, (shape[1] - SIZE) // 2
        image = tf.io.decode_and_crop_jpeg(jpeg, [top, left, SIZE, SIZE], channels=3, **method)
        return tf.ensure_shape(image, (SIZE, SIZE, 3))

    def one(record: Any) -> tuple[Any, Any]:
        parsed = tf.io.parse_single_example(record, features)
        image = crop(parsed["image"]) if task == "crop" else tensorflow_crop(parsed["image"], **method)
        return image, parsed["label"]

    def batch(record: Any) -> tuple[Any, Any]:
        parsed = tf.io.parse_example(record, features)
        return tf.reshape(tf.io.decode_raw(parsed["image"], tf.uint8), (-1, *records.shape)), parsed["label"]

    data = tf.data.TFRecordDataset(records.files, buffer_size=8 << 20, num_parallel_reads=WORKERS).shuffle(1024)
    if task == "raw":
        data = data.batch(BATCH).map(batch, num_parallel_calls=WORKERS)
    else:
        data = data.map(one, num_parallel_calls=WORKERS).batch(BATCH)
    options = tf.data.Options()
    options.deterministic = False
    options.threading.private_threadpool_size = WORKERS
    data = data.with_options(options).prefetch(2)
    return lambda: iter(data)


def tf_data_fast(task: str, dataset: str, written: str) -> Epoch:
    """With the fast DCT and chroma without interpolation."""
    return tf_data(task, dataset, written, fast=True)


def webdataset(task: str, dataset: str, written: str) -> Epoch:
    """WebDataset: tar files in random order and a buffer of 1,000 records; whole batches are made by two workers.

    `cls` is decoded by its own decoder, images by `decoder`: its own ("rgb8", Pillow) reads two thirds as many JPEGs.
    """
    import webdataset as wds
    from torch.utils.data import DataLoader

    decode = decoder(task, Records(dataset).shape)
    images = wds.handle_extension("jpg raw", decode)
    shards = sorted(glob.glob(f"{written}/*.tar"))
    data = (
        wds.WebDataset(shards, shardshuffle=len(shards))
        .shuffle(1000)
        .decode(images)
        .to_tuple("jpg;raw", "cls")
        .batched(BATCH, collation_fn=collated)
    )
    loader = DataLoader(data, batch_size=None, **torch_options())
    return lambda: iter(loader)


def litdata(task: str, dataset: str, written: str) -> Epoch:
    """litdata: its own loader with two workers; it shuffles chunks, and the records in each of them."""
    from litdata import StreamingDataLoader, StreamingDataset

    decode = decoder(task, Records(dataset).shape)

    class Decoded(StreamingDataset):
        """Its records, decoded."""

        def __getitem__(self, index: Any) -> tuple[np.ndarray, int]:
            sample = super().__getitem__(index)
            return decode(sample["image"]), sample["label"]

    data = Decoded(written, shuffle=True, drop_last=False)
    loader = StreamingDataLoader(data, batch_size=BATCH, collate_fn=collated, **torch_options())
    return lambda: iter(loader)


def mosaicml(task: str, dataset: str, written: str) -> Epoch:
    """MosaicML streaming: PyTorch's loader with two workers; its default shuffle, "py1e"."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    decode = decoder(task, Records(dataset).shape)

    class Decoded(StreamingDataset):
        """Its records, decoded."""

        def __getitem__(self, index: Any) -> tuple[np.ndarray, int]:
            sample = super().__getitem__(index)
            return decode(sample["image"]), sample["label"]

    clean_stale_shared_memory()
    data = Decoded(local=written, shuffle=True, batch_size=BATCH)
    loader = DataLoader(data, batch_size=BATCH, collate_fn=collated, **torch_options())
    return lambda: iter(loader)


def grain(task: str, dataset: str, written: str) -> Epoch:
    """Grain on ArrayRecord: a random order of all records; two threads that make a batch each.

    Tried: threads that make one record each (a tenth to a quarter less), and two worker processes (a third as many).
    """
    import grain as library
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    decode = decoder(task, Records(dataset).shape)

    def sample(record: bytes) -> tuple[np.ndarray, int]:
        return decode(memoryview(record)[LABEL.size :]), LABEL.unpack_from(record)[0]

    data = library.MapDataset.source(ArrayRecordDataSource([written])).seed(0).shuffle().map(sample).batch(BATCH)
    batches = data.to_iter_dataset(library.ReadOptions(num_threads=WORKERS, prefetch_buffer_size=4))
    return lambda: iter(batches)


def mosaicml_access(dataset: str, written: str) -> Callable[[int], Any]:
    """One record's pixels."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    decode = decoder("raw", Records(dataset).shape)
    clean_stale_shared_memory()
    data = StreamingDataset(local=written, shuffle=False, batch_size=1)
    return lambda number: decode(data[number]["image"])


def litdata_access(dataset: str, written: str) -> Callable[[int], Any]:
    """One record's pixels."""
    from litdata import StreamingDataset

    decode = decoder("raw", Records(dataset).shape)
    data = StreamingDataset(written)
    return lambda number: decode(data[number]["image"])


def grain_access(dataset: str, written: str) -> Callable[[int], Any]:
    """One record's pixels."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    decode = decoder("raw", Records(dataset).shape)
    data = ArrayRecordDataSource([written])
    return lambda number: decode(memoryview(data[number])[LABEL.size :])


FFCV = ("ffcv", "numba", "torch", "numpy", "opencv-python-headless")
READERS = {
    "ffcv": Reader(ffcv, FFCV),
    "ffcv-quasi": Reader(ffcv_quasi, FFCV),
    "dali": Reader(dali, ("nvidia-dali-cuda130",)),
    "dali-fast": Reader(dali_fast, ("nvidia-dali-cuda130",)),
    "tf.data": Reader(tf_data, ("tensorflow-cpu",)),
    "tf.data-fast": Reader(tf_data_fast, ("tensorflow-cpu",)),
    "webdataset": Reader(webdataset, ("webdataset", *PYTHON)),
    "litdata": Reader(litdata, ("litdata", *PYTHON), litdata_access),
    "mosaicml": Reader(mosaicml, ("mosaicml-streaming", *PYTHON), mosaicml_access),
    "grain": Reader(grain, ("grain", "array-record", *PYTHON), grain_access),
    "datasets": Reader(datasets, ("datasets", "pyarrow", *PYTHON)),
    "lancedb": Reader(lancedb, ("lancedb", "pylance", "pyarrow", *PYTHON)),
    "spdl": Reader(spdl, ("spdl", *PYTHON)),
    "spdl-own": Reader(spdl_decoder, ("spdl", "spdl-io")),
}

if __name__ == "__main__":
    measure(__doc__, READERS)
