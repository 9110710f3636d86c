"""A wheel in fresh environments, one for each extra: what it installs, how large that is, and whether it works.

    PYTHONPATH=tests python -m support.extras WHEEL [EXTRA ...]        (default: all of them; "" is the reader alone)

Each environment lies in a temporary folder and is removed after its test. Commands run outside of the repository,
without this environment's packages. The exit status is 1 if one fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.command import REPOSITORY, prepared
from support.images import write_image
from support.servers import Servers, Unavailable

OPEN = "from shard_reader import CenterCrop, open_dataset; data = open_dataset('shards', 'train'); "
STREAM = OPEN + "stream = data.stream(batch_size=8, seed=0, image=CenterCrop(48)); "
RECORDS = "assert len(data) == 24 and data.ids([0])[0][:4] in (b'cat/', b'dog/'); print(data)"
FIRST = "; assert tuple(images.shape)[0] == 8; print(images.shape)"
PREPARE = "image-shards prepare photos new --size 64"
READ_NEW = (
    "python -c {from shard_reader import open_dataset; assert open_dataset('new', 'train')[0]['image'].ndim == 3}"
)
HEIC = "import pillow_heif; from PIL import Image; pillow_heif.register_heif_opener(); "
TIFF = "import numpy, os, tifffile; os.makedirs('tiff'); "
TIFF += "[tifffile.imwrite(f'tiff/{n}.tif', numpy.full((64, 64), n, 'float32')) for n in range(3)]"
DICOM = "import os; from pydicom.data import get_testdata_file; os.makedirs('dicom'); "
DICOM += "import shutil; shutil.copy(get_testdata_file('CT_small.dcm'), 'dicom')"
COCO = "import json; images = [{'id': n, 'file_name': f'{n}.jpg', 'width': 90, 'height': 70} for n in range(0, 6, 2)]; "
COCO += "outlines = [{'id': n, 'image_id': n, 'category_id': 1, 'bbox': [1, 1, 50, 40], "
COCO += "'segmentation': [[1, 1, 51, 1, 51, 41]]} for n in range(0, 6, 2)]; json.dump({'images': images, "
COCO += "'annotations': outlines, 'categories': [{'id': 1, 'name': 'cat'}]}, open('coco.json', 'w'))"
HEIC += "[Image.new('RGB', (64, 64), (n, 9, 9)).save(f'heic/{n}.heic') for n in range(3)]"


@dataclass(frozen=True)
class Example:
    """What is run with an extra: Python in braces, a command otherwise. `also` are extras that it needs.

    `server` is one of `support.servers`, where the dataset then is, and whose URL stands for URL.
    """

    commands: Sequence[str]
    also: str = ""
    server: str = ""


_REMOTE = ("image-shards inspect URL/shards", "python -c {" + OPEN.replace("'shards'", "'URL/shards'") + RECORDS + "}")
EXAMPLES: Mapping[str, Example] = {
    "": Example(["image-shards inspect shards", "python -c {" + OPEN + RECORDS + "}"]),
    "decode": Example(["python -c {" + STREAM + "images = next(iter(stream))['image']" + FIRST + "}",
                       "image-shards benchmark shards --crop 48 --seconds 1"]),
    "hdf5": Example(["image-shards verify shards"]),
    "beam": Example([PREPARE, READ_NEW, "image-shards prepare photos new-h5 --format hdf5"]),
    "pandas": Example(["python -c {" + OPEN + "frame = data.to_pandas(); print(frame['class'].value_counts())}"]),
    "telemetry": Example(["python -c {" + STREAM + "from shard_reader.telemetry.opentelemetry import observe; "
                          "observe(stream); print(stream.stats().explain())}"], also="decode"),
    "preprocess": Example(["python -c {from beam_jobs import preprocess; "
                           "print(preprocess('photos/cat/0.jpg', 'shards').shape)}"]),
    "report": Example(["image-shards report shards"]),
    "heic": Example(["python -c {" + HEIC + "}", "image-shards prepare heic new --size 64", READ_NEW], also="beam"),
    "tiff": Example(["python -c {" + TIFF + "}", "image-shards prepare tiff new --size 64 --dtype float32", READ_NEW],
                    also="beam"),
    "dicom": Example(["python -c {" + DICOM + "}", "image-shards prepare dicom new --size 64 --dicom-window 40,400",
                      READ_NEW], also="beam"),
    "coco": Example(["python -c {" + COCO + "}",
                     "image-shards prepare coco.json new --root photos/cat --size 64 --segments mask",
                     READ_NEW.replace("['image'].ndim == 3", "['mask'].max() == 1")], also="beam"),
    "dataflow": Example([PREPARE, "python -c {import apache_beam.runners.dataflow.dataflow_runner, gcsfs}"]),
    "tf": Example(["python -c {" + STREAM + "from shard_reader.tf_data import as_dataset; "
                   "images, *_ = next(iter(as_dataset(stream, inputs='image', targets='label')))" + FIRST + "}"]),
    "keras": Example(["python -c {" + STREAM + "from shard_reader.keras import ShardSequence; "
                      "images, *_ = ShardSequence(stream)[0]" + FIRST + "}"], also="tf"),
    "torch": Example(["python -c {" + STREAM + "from shard_reader.torch import StreamDataset; "
                      "images, *_ = next(iter(StreamDataset(stream, inputs='image', targets='label')))" + FIRST + "}"]),
    "jax": Example(["python -c {" + STREAM + "from shard_reader.jax import GlobalBatches; "
                    "images, *_ = next(iter(GlobalBatches(stream, inputs='image', targets='label')))" + FIRST + "}"]),
    "s3": Example(_REMOTE, server="moto"),
    "gcs": Example(_REMOTE, server="gcs"),
    "azure": Example(_REMOTE, server="azurite"),
    "http": Example(_REMOTE, server="nginx"),
    "demo": Example(["python digits_keras.py demo"]),
}  # fmt: skip


def words(line: str) -> list[str]:
    """The words of a command of EXAMPLES."""
    before, brace, code = line.partition("{")
    return [*before.split(), *([code.removesuffix("}")] if brace else [])]


def main(wheel: Path, extras: Sequence[str]) -> int:
    """Try the extras in turn, and print a line for each. Returns the exit status."""
    place = Path(tempfile.mkdtemp(prefix="extras-"))
    servers, failed = Servers(place / "servers"), []
    try:
        for number in range(24):
            write_image(place / "photos" / ("cat", "dog")[number % 2] / f"{number}.jpg", number, (90, 70))
        (place / "heic").mkdir()
        shutil.copy(REPOSITORY / "examples/digits_keras.py", place)
        prepared(place / "photos", place / "shards", "--size", 64, "--format", "tfrecord", "--format", "hdf5")
        print("| extra | MB | seconds to install | seconds of its example | |\n|---|---|---|---|---|", flush=True)
        for extra in extras:
            line, works = _tried(extra, wheel, place, servers)
            failed += [] if works else [extra]
            print(line, flush=True)
    finally:
        servers.close()
        shutil.rmtree(place)
    if failed:
        print(f"failed: {', '.join(extra or 'no extra' for extra in failed)}", file=sys.stderr)
    return 1 if failed else 0


def _tried(extra: str, wheel: Path, place: Path, servers: Servers) -> tuple[str, bool]:
    example = EXAMPLES[extra]
    names = ",".join(name for name in (example.also, extra) if name)
    fresh = place / "environment"
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", fresh], check=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment |= {"PATH": f"{fresh / 'bin'}{os.pathsep}{environment['PATH']}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    empty = _megabytes(fresh)
    try:
        wanted = f"{wheel.resolve()}[{names}]" if names else str(wheel.resolve())
        problem = _run(["pip", "install", "-q", wanted], place, environment)
        size, installed = _megabytes(fresh) - empty, time.monotonic()
        said = ""
        if not problem:
            problem, said = _examples(example, place, servers, environment)
        took = time.monotonic() - installed
        line = f"| `[{names}]` | {size:,.0f} | {installed - start:.0f} | {took:.0f} | {problem or said or 'works'} |"
        return line, not problem
    finally:
        for made in (fresh, *place.glob("new*"), place / "demo"):
            shutil.rmtree(made, ignore_errors=True)


def _examples(example: Example, place: Path, servers: Servers, environment: Mapping[str, str]) -> tuple[str, str]:
    """The problem of an example, or "", and a note."""
    lines = ["image-shards --version", "image-shards --help", "image-shards inspect --help"]
    url = ""
    try:
        store = servers.store(example.server) if example.server else None
    except Unavailable as error:
        return _in_turn(lines, place, environment), f"imported only: {error}"
    if store is not None:
        store.copy(place / "shards", "shards")
        url, environment = store.url, {**environment, **store.environment}
    return _in_turn([*lines, *(line.replace("URL", url) for line in example.commands)], place, environment), ""


def _in_turn(lines: Sequence[str], place: Path, environment: Mapping[str, str]) -> str:
    return next(filter(None, (_run(words(line), place, environment) for line in lines)), "")


def _run(command: Sequence[str], place: Path, environment: Mapping[str, str]) -> str:
    """Run a command in `place`; its name and the end of what it said if it fails."""
    program = shutil.which(command[0], path=environment["PATH"]) or command[0]
    result = subprocess.run([program, *command[1:]], cwd=place, env=environment, capture_output=True, text=True)
    if result.returncode == 0:
        return ""
    print(" ".join(command), result.stdout, result.stderr, sep="\n", file=sys.stderr)
    return f"{command[0]} {command[1]}: {(result.stderr.strip().splitlines() or ['no message'])[-1]}"


def _megabytes(folder: Path) -> float:
    """What the files below a folder take on disk."""
    return sum(path.lstat().st_blocks for path in folder.rglob("*")) * 512 / 1e6


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:] or list(EXAMPLES)))
