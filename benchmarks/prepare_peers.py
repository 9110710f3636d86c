"""The peers of benchmarks/prepare.py, each a whole process of its own.

    python benchmarks/prepare_peers.py {pillow,draft,opencv,litdata,img2dataset} INPUT OUTPUT --workers 2
    python benchmarks/prepare_peers.py {litdata,img2dataset} OUTPUT --count
    python benchmarks/prepare_peers.py --versions

Each makes JPEGs of quality 90 with a short side of 256 pixels. INPUT is a folder of class folders, for
img2dataset a file of URLs. litdata and img2dataset need benchmarks/requirements-peers.txt, the pools need TensorFlow;
"draft" is Pillow's pool that decodes large JPEGs at 1/2, 1/4 or 1/8. Each peer imports only its own packages.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import multiprocessing
import platform
import sys
import tarfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

if "img2dataset" in sys.argv:  # in its processes, too: webdataset would import, three times, what litdata needs
    sys.modules["torch"] = None  # type: ignore[assignment]

PACKAGES = ("litdata", "torch", "img2dataset", "opencv-python-headless", "pillow", "numpy")


def main() -> None:
    """Run a peer, or count its records, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", nargs="?", choices=("pillow", "draft", "opencv", "litdata", "img2dataset"))
    parser.add_argument("paths", nargs="*", metavar="[INPUT] OUTPUT")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--count", action="store_true", help="print the number of records in OUTPUT")
    parser.add_argument("--versions", action="store_true", help="print the versions of Python and of the peers")
    options = parser.parse_args()
    if options.versions:
        print(json.dumps({"python": platform.python_version()} | dict(installed())))
    elif options.count:
        print({"litdata": count_litdata, "img2dataset": count_img2dataset}[options.peer](*options.paths))
    else:
        run = {
            "pillow": functools.partial(pool, resized),
            "draft": functools.partial(pool, resized_from_draft),
            "opencv": functools.partial(pool, resized_by_opencv),
            "litdata": litdata_optimize,
            "img2dataset": img2dataset_download,
        }[options.peer]
        run(*options.paths, options.workers)


def installed() -> Iterator[tuple[str, str]]:
    """The packages of the peers that are installed, and their versions."""
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            yield name, version(name)


def resized(path: str, draft: bool = False) -> bytes:
    """A JPEG whose short side is 256 pixels; with `draft`, of pixels that are reduced to twice that size at least."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        if draft:
            image.draft("RGB", (512, 512))
        covering = ImageOps.cover(image.convert("RGB"), (256, 256), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    covering.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def resized_from_draft(path: str) -> bytes:
    """The same with `draft`."""
    return resized(path, draft=True)


def resized_by_opencv(path: str) -> bytes:
    """A JPEG whose short side is 256 pixels, by OpenCV's area filter. Profiles are left aside."""
    import cv2

    cv2.setNumThreads(0)
    pixels = cv2.imread(path)
    height, width = pixels.shape[:2]
    scale = 256 / min(width, height)
    size = (max(256, round(width * scale)), max(256, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    payload: bytes = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    return payload


def labelled(images: str) -> list[tuple[str, int]]:
    """The path of each image, and the number of its class folder."""
    paths = sorted(Path(images).glob("*/*"))
    classes = {name: number for number, name in enumerate(sorted({path.parent.name for path in paths}))}
    return [(str(path), classes[path.parent.name]) for path in paths]


def pool(work: Callable[[str], bytes], images: str, output: str, workers: int) -> None:
    """The usual script written by hand: a pool that decodes, resizes and encodes, and one writer."""
    import tensorflow as tf

    samples = labelled(images)
    with multiprocessing.Pool(workers) as processes, tf.io.TFRecordWriter(output) as writer:
        payloads = processes.imap(work, (path for path, _ in samples), chunksize=16)
        for (_, label), payload in zip(samples, payloads, strict=True):
            features = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[payload])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


def litdata_sample(sample: tuple[str, int]) -> dict[str, bytes | int]:
    """A record of litdata, with the pixels of the pool."""
    path, label = sample
    return {"image": resized(path), "label": label}


def litdata_optimize(images: str, output: str, workers: int) -> None:
    """litdata from disk to disk; with fork, since spawned processes would import torch again."""
    from litdata import optimize

    optimize(
        fn=litdata_sample,
        inputs=labelled(images),
        output_dir=output,
        num_workers=workers,
        chunk_bytes="64MB",
        reorder_files=False,
        start_method="fork",
        verbose=False,
    )


def count_litdata(output: str) -> int:
    """How many records its reader yields."""
    from litdata import StreamingDataset

    return sum(1 for sample in StreamingDataset(output) if sample["image"])


def img2dataset_download(urls: str, output: str, workers: int) -> None:
    """img2dataset with its own filter (OpenCV's area), without the hashes and EXIF that it adds by itself.

    Two shards for each process: it replaces a process, and imports everything again, after five.
    """
    from img2dataset import download

    with open(urls) as lines:
        images = sum(1 for _ in lines)
    download(
        url_list=urls,
        output_folder=output,
        output_format="webdataset",
        image_size=256,
        resize_mode="keep_ratio",
        encode_format="jpg",
        encode_quality=90,
        processes_count=workers,
        thread_count=16,
        retries=3,
        number_sample_per_shard=-(-images // (2 * workers)),
        compute_hash=None,
        extract_exif=False,
    )


def count_img2dataset(output: str) -> int:
    """How many images its tar files hold."""

    def names() -> Iterator[str]:
        for path in Path(output).glob("*.tar"):
            with tarfile.open(path) as archive:
                yield from archive.getnames()

    return sum(name.endswith(".jpg") for name in names())


if __name__ == "__main__":
    main()
