"""What the README shows works as it is shown."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path

import fsspec
import numpy as np
import pytest
from support.command import REPOSITORY, command, prepared
from support.images import write_image
from support.servers import Store

import beam_jobs
from beam_jobs.cli.prepare import parse
from beam_jobs.sources.known import recognised
from shard_reader import CenterCrop, open_dataset

REPOSITORY = REPOSITORY
README, *GUIDES = (
    (REPOSITORY / name).read_text("utf-8") for name in ("README.md", "docs/training.md", "docs/stores.md")
)
PYTHON, IN_TRAINING, FROM_STORES = (re.findall(r"```python\n(.*?)```", text, re.DOTALL) for text in (README, *GUIDES))
SOURCES = re.findall(r"^\|([a-z ]*)\|.*\| `(image-shards prepare .*)` \|$", README, re.M)
LOOKS = re.compile("image-shards (inspect|verify) ")
_LINES = README.splitlines()
COMMANDS = [line for line in _LINES if line.startswith("image-shards prepare ") and "://" not in line]
IN_BUCKETS = [line for line in _LINES if line.startswith("image-shards ") and "s3://bucket" in line]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `photos` and the `shards` that the README's command makes of them, in both formats."""
    directory = tmp_path_factory.mktemp("readme")
    for number in range(40):
        write_image(directory / "photos" / ("cat", "dog")[number % 2] / f"{number}.jpg", number, (240, 230))
    line, *_ = COMMANDS
    _, _, source, target, *options = shlex.split(line)
    prepared(directory / source, directory / target, *options, "--format", "tfrecord", "--format", "hdf5")
    return directory


def test_there_is_something_to_run() -> None:
    assert (len(PYTHON), len(IN_TRAINING), len(FROM_STORES), len(COMMANDS)) == (6, 6, 1, 4)


@pytest.mark.filterwarnings("ignore")  # h5py's file is left open, as it would be in a session
def test_the_python_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(place)
    names: dict[str, object] = {}
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), names)
    assert names["record"]["id"].startswith(("cat/", "dog/"))  # type: ignore[index]
    assert len(names["image"]) > 100  # type: ignore[arg-type]
    assert names["resumed"].epoch == 1  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # of Keras
def test_the_python_of_the_training_guide_runs(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for framework in ("tensorflow", "torch", "jax"):
        pytest.importorskip(framework)
    (tmp_path / "shards").symlink_to(place / "shards")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in IN_TRAINING:
        exec(compile(block, "training.md", "exec"), names)
    assert names["rows"].shape == (len(names["data"]), 2)  # type: ignore[attr-defined, arg-type]
    assert names["position"]["step"] == 0 and names["resume"].initial_epoch == 2  # type: ignore[index, attr-defined]
    assert names["images"].shape == (32, 224, 224, 3)  # type: ignore[attr-defined]


def test_the_python_of_the_guide_to_stores_runs(place: Path, tmp_path: Path) -> None:
    fsspec.filesystem("memory").put(f"{place / 'shards'}/", "/readme/shards/", recursive=True)
    (block,) = FROM_STORES
    block = block.replace("s3://bucket", "memory://readme").replace("/local-disk/cache", str(tmp_path / "cache"))
    names: dict[str, object] = {"rank": 0, "world_size": 2}
    exec(compile(block, "stores.md", "exec"), names)
    assert names["stream"].stats().requests > 0  # type: ignore[attr-defined]
    assert (tmp_path / "cache/locks").exists()


def test_the_commands_of_buckets_run(place: Path, new_store: Callable[[str], Store]) -> None:
    store = new_store("moto")
    store.copy(place / "photos", "photos")
    assert [line.split()[1] for line in IN_BUCKETS] == ["prepare", "verify"]
    for line in IN_BUCKETS:
        words = shlex.split(line.replace("s3://bucket", store.url))[1:]
        result = command(*words, env={**os.environ, **store.environment})
        assert result.returncode == 0, result.stderr


def test_every_option_of_the_table_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["prepare", "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help", "--runner", "--parallelism"}
    table = "\n".join(line for line in README.splitlines() if line.startswith("| `--"))
    assert set(re.findall(r"`(--[a-z-]+)", table)) == known


def test_the_table_of_sources_has_a_command_for_each() -> None:
    found = []
    for name, line in SOURCES:
        options = parse(shlex.split(line)[1:])
        kind = recognised(options.source)[0].kind
        found.append(kind)
        assert kind == (name.strip() or "records") or (name.strip(), kind) == ("your own", "custom_source:Database")
    assert found == ["folder", "table", "coco", "archive", "records", "records", "custom_source:Database"]


def write_sources(folder: Path) -> None:
    """The inputs of the commands in the table of sources, each as people have it."""
    rng = np.random.default_rng(0)
    for number in range(6):
        write_image(folder / f"photos/{('cat', 'dog')[number % 2]}/{number}.jpg", number, (300 + number, 280))
        write_image(folder / f"val2017/{number}.jpg", number, (64 + number, 48))
    rows = [f"{('cat', 'dog')[n % 2]}/{n}.jpg,{n % 3}" for n in range(6)]
    (folder / "tiles.csv").write_text("\n".join(["tile_name,y", *rows]) + "\n")
    coco = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 64 + n, "height": 48} for n in range(6)],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 9, 8], "area": 72} for n in range(6)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(coco))
    with tarfile.open(folder / "photos.tar", "w") as tar:
        tar.add(folder / "photos", "photos")
    images, labels = rng.integers(0, 256, (6, 28, 28), np.uint8), np.arange(6) % 3
    np.savez(folder / "mnist.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    (folder / "cifar-10-batches-bin").mkdir()
    records = rng.integers(0, 256, (6, 3073), np.uint8)
    records.tofile(folder / "cifar-10-batches-bin/data_batch_1.bin")
    shutil.copy(REPOSITORY / "examples/custom_source.py", folder)
    with contextlib.closing(sqlite3.connect(folder / "photos.db")) as database, database:
        database.execute("CREATE TABLE photos (name TEXT PRIMARY KEY, class TEXT, caption TEXT, jpeg BLOB)")
        photos = [(path.name, path.parent.name, "one", path.read_bytes()) for path in folder.glob("photos/*/*.jpg")]
        database.executemany("INSERT INTO photos VALUES (?, ?, ?, ?)", photos)


@pytest.mark.slow
def test_the_commands_of_the_table_of_sources_make_datasets_that_can_be_streamed(tmp_path: Path) -> None:
    write_sources(tmp_path)
    for number, (_, line) in enumerate(SOURCES):
        words = [f"shards{number}" if word == "shards" else word for word in shlex.split(line)[1:]]
        result = command(*words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
        assert result.returncode == 0, f"{line}: {result.stderr}"
        data = open_dataset(tmp_path / f"shards{number}", "train")
        # Photos that keep their aspect ratio need a size for a batch; all others have one.
        transform = {} if data.fields["image"].is_fixed else {"image": CenterCrop(224)}
        assert bool(transform) == (not {"--fit", "--record"} & set(words))
        (batch,) = data.stream(batch_size=6, seed=0, **transform)
        assert len(batch["image"]) == 6 and batch["weight"].all()


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one(line: str) -> None:
    options = parse(shlex.split(line)[1:])
    assert (options.source.input, options.output) == ("photos", "shards")


@pytest.mark.parametrize("line", [line.partition("#")[0] for line in _LINES if LOOKS.match(line) and "://" not in line])
def test_what_looks_at_a_dataset_runs(line: str, place: Path) -> None:
    result = command(*shlex.split(line)[1:], cwd=place)
    assert result.returncode == 0, result.stderr


def test_what_the_readme_installs_is_there() -> None:
    """From the checkout, or from a wheel built of it; by name only what is installed already."""
    (section,) = re.findall(r"\n## Install\n(.*?)\n## ", README, re.DOTALL)
    extras = set(metadata("image-shards").get_all("Provides-Extra") or [])
    wheel = f"./dist/image_shards-{beam_jobs.__version__}-py3-none-any.whl"
    lines = [shlex.split(line, comments=True) for line in section.splitlines() if line.startswith("pip ")]
    assert ["pip", "wheel", "--no-deps", "--wheel-dir", "dist", "."] in lines
    found = [re.fullmatch(r"(.*)\[(.*)\]", words[-1]) for words in lines if words[1] == "install"]
    assert {one[1] for one in found if one} == {".", wheel}
    named = {extra for one in found if one for extra in one[2].split(",")} | set(re.findall(r"\[(\w+)\]", section))
    assert None not in found and named <= extras


def test_the_files_that_the_readme_names_are_there() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    for name in [*linked, "scripts/demo", "scripts/test", "Dockerfile", "requirements.lock"]:
        assert (REPOSITORY / name).exists(), name


def test_the_places_that_contributing_names_are_there() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"`([\w./]+(?:\.py|\.md|/))`", text)) - {"photos/", "cifar10/", "odd/"}  # of shared/data
    found = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    known = {f"/{place}" for name in found.splitlines() for place in (name, *map(str, Path(name).parents))}
    gone = [name for name in named if not any(place.endswith(f"/{name.rstrip('/')}") for place in known)]
    assert len(named) > 40 and not gone
