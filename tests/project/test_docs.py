"""The documentation: every block of code runs, every name is right, and no option or argument is left out."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet
from support import detection
from support.command import REPOSITORY, command, prepared
from support.detection import Photo, Thing
from support.images import write_image
from support.pages import LANGUAGES, blocks, run_page
from support.servers import Store

import beam_jobs
import shard_reader
from beam_jobs.cli.prepare import parse
from beam_jobs.sources.known import recognised
from shard_reader import CenterCrop, open_dataset

DOCS = REPOSITORY / "docs"
PAGES = {
    "README.md": (REPOSITORY / "README.md").read_text("utf-8"),
    **{path.relative_to(DOCS).as_posix(): path.read_text("utf-8") for path in sorted(DOCS.rglob("*.md"))},
}
SOURCES = re.findall(r"^\|([a-z ]*)\|.*\| `(image-shards prepare .*)` \|$", PAGES["prepare/sources.md"], re.MULTILINE)
# Read by everybody first. All others take some minutes together.
_FIRST = {"start/install.md", "read/index.md"}
_NIGHTLY = {"train/trainers.md"}  # four trainers are imported; CI runs their examples
RUN = [
    pytest.param(name, marks=() if name in _FIRST else pytest.mark.nightly if name in _NIGHTLY else pytest.mark.slow)
    for name, page in PAGES.items()
    if not name.startswith("notebooks/")
    if any(block.language in ("python", "bash", "diff") and block.scripts for block in blocks(page))
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the inputs of all pages, and `shards`."""
    directory = tmp_path_factory.mktemp("docs")
    write_inputs(directory)
    options = "--size 256 --split train=0.9,val=0.1 --format tfrecord --format hdf5"
    prepared(directory / "photos", directory / "shards", *options.split())
    return directory


@pytest.fixture
def place(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory for one page: the inputs, and the examples of the checkout."""
    directory = tmp_path / "page"
    shutil.copytree(inputs, directory)
    (directory / "examples").symlink_to(REPOSITORY / "examples")
    monkeypatch.chdir(directory)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return directory


def write_rasters(folder: Path) -> None:
    """Scenes of four bands, heights as floats, and scans."""
    import tifffile
    from support.dicom import dicom

    rng = np.random.default_rng(1)
    for name in ("scenes", "heights", "scans"):
        (folder / name).mkdir()
    for n in range(3):
        bands, settings = rng.integers(0, 4000, (30, 40, 4), np.uint16), {"planarconfig": "contig"}
        tifffile.imwrite(folder / f"scenes/{n}.tif", bands, photometric="minisblack", **settings)
        tifffile.imwrite(folder / f"heights/{n}.tif", rng.random((30, 40)).astype(np.float32))
        values = rng.integers(-1000, 1000, (30, 40 + n), np.int16)
        (folder / f"scans/{n}.dcm").write_bytes(dicom(values, RescaleSlope="1", RescaleIntercept="-24"))


def write_inputs(folder: Path) -> None:
    """The inputs that pages name, each as people have it."""
    rng = np.random.default_rng(0)
    for number in range(40):
        write_image(folder / f"photos/{('cat', 'dog')[number % 2]}/{number}.jpg", number, (240 + number % 3, 230))
    for number in range(6):
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
    photos = [(path.name, path.parent.name, path.read_bytes()) for path in sorted(folder.glob("photos/*/*.jpg"))]
    columns = {"image": [{"bytes": data, "path": name} for name, _, data in photos], "label": [n for _, n, _ in photos]}
    (folder / "hub/data").mkdir(parents=True)
    parquet.write_table(pa.table(columns), folder / "hub/data/train-00000-of-00001.parquet")
    for split, of_split in (("train", photos[:8]), ("test", photos[8:10])):
        (folder / "captioned" / split).mkdir(parents=True)
        for name, _, data in of_split:
            (folder / "captioned" / split / name).write_bytes(data)
        rows = [f"{name},a cat on a chair" for name, *_ in of_split]
        (folder / "captioned" / split / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    drawn = [
        Photo(f"{name}/{n}.jpg", 240 + n % 3, 230, [Thing(name, (10, 20, 110, 90))], "train" if n < 12 else "val")
        for n in range(16)
        for name in [("cat", "dog")[n % 2]]
    ]
    for form, name in ((detection.as_yolo, "yolo"), (detection.as_voc, "voc"), (detection.as_ndjson, "")):
        form(drawn, folder / "photos", folder / name)
    (folder / "photos.ndjson").rename(folder / "pets.ndjson")
    write_rasters(folder)
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
@pytest.mark.parametrize("name", RUN)
def test_the_blocks_of_a_page_run(
    name: str, place: Path, new_store: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = {"/local-disk/cache": str(place / "cache")}
    if name == "README.md":  # which makes it
        shutil.rmtree(place / "shards")
    if "s3://bucket" in PAGES[name]:
        store = new_store("moto")
        store.copy(place / "photos", "photos")
        store.copy(place / "shards", "shards")
        replace["s3://bucket"] = store.url
        for key, value in store.environment.items():
            monkeypatch.setenv(key, value)
    assert run_page(PAGES[name], place, replace)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, place: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(place)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # What is committed comes from an execution, too.
    stored = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [bool(cell.outputs) for cell in code] == [bool(cell.outputs) for cell in stored]


@pytest.mark.parametrize("name", PAGES)
def test_blocks_have_a_language_and_a_reason_if_they_are_not_run(name: str) -> None:
    found = list(blocks(PAGES[name]))
    assert {block.language for block in found} <= LANGUAGES | ({""} if name == "reference/format.md" else set())
    # Every fence is in a block. Those without a language are in the specification.
    assert len(re.findall(r"^ *```", PAGES[name], re.MULTILINE)) == 2 * len(found)
    assert all(len(block.not_run) > 10 for block in found if block.not_run)


def links(page: str) -> Iterator[str]:
    """The relative links of a page, without code."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page, flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", link):
            yield unquote(link)


@pytest.mark.parametrize("name", [*PAGES, "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/README.md"])
def test_links_lead_to_files(name: str) -> None:
    path = DOCS / name if name in PAGES and name != "README.md" else REPOSITORY / name
    gone = [link for link in links(path.read_text("utf-8")) if not (path.parent / link.partition("#")[0]).exists()]
    assert not gone


def test_every_page_is_in_the_navigation_once() -> None:
    def names(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for part in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from names(part)

    found = sorted(names(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text("utf-8"))["nav"]))
    assert found == sorted(set(PAGES) - {"README.md"})


def test_the_readme_is_one_that_one_reads() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 200


def test_generated_pages_are_those_of_the_code() -> None:
    script = REPOSITORY / "scripts/generated_pages.py"
    specification = importlib.util.spec_from_file_location("generated_pages", script)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    for path, text in module.pages().items():
        assert path.read_text("utf-8") == text, f"run scripts/docs: {path.name} is not that of the code"


def test_every_option_of_prepare_is_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["prepare", "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help", "--runner", "--parallelism"}
    pages = "\n".join(page for name, page in PAGES.items() if name.startswith(("prepare/", "operate/share")))
    table = "\n".join(line for line in pages.splitlines() if line.startswith("| `--"))
    options = set(re.findall(r"`(--[a-z-]+)", table.replace("\\|", "")))
    beam = {option for option in options if "_" in option}
    assert known <= options
    assert options - known - beam <= {"--runner", "--parallelism"}


FUNCTIONS = {
    "read/": [
        shard_reader.open_dataset,
        shard_reader.Dataset.stream,
        shard_reader.Dataset.balanced,
        shard_reader.Dataset.show,
        shard_reader.mix,
        shard_reader.telemetry.StatsLogger,
    ],
    "train/": [
        "tf_data.as_dataset",
        "keras.ShardSequence",
        "keras.ResumeCallback",
        "torch.StreamDataset",
        "torch.RecordDataset",
        "jax.GlobalBatches",
    ],
}


@pytest.mark.parametrize("part", FUNCTIONS)
def test_every_argument_is_in_a_table(part: str) -> None:
    pages = "\n".join(page for name, page in PAGES.items() if name.startswith(("read/", part)))
    tables = "\n".join(line for line in pages.splitlines() if line.lstrip().startswith("|"))
    explained = set(re.findall(r"`([a-z_]+)=", tables))
    for function in FUNCTIONS[part]:
        if isinstance(function, str):
            module, _, name = function.partition(".")
            pytest.importorskip({"tf_data": "tensorflow"}.get(module, module))
            function = getattr(importlib.import_module(f"shard_reader.{module}"), name)
        arguments = {
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        assert arguments <= explained, function


def test_every_public_name_is_in_the_reference() -> None:
    named = set(re.findall(r"^::: ([\w.]+)$", PAGES["reference/api.md"], re.MULTILINE))
    assert {f"shard_reader.{name}" for name in shard_reader.__all__} <= named
    assert {f"shard_reader.{name}" for name in ("tf_data", "keras", "torch", "jax")} <= named
    assert {f"beam_jobs.{name}" for name in beam_jobs.__all__ if name != "__version__"} <= named
    assert {f"beam_jobs.sources.{name}" for name in importlib.import_module("beam_jobs.sources").__all__} <= named


def test_messages_of_the_page_about_trouble_are_those_of_the_code() -> None:
    headings = re.findall(r"^### `(.+)`$", PAGES["prepare/troubleshooting.md"], re.MULTILINE)
    assert len(headings) >= 25
    code = "".join(
        path.read_text("utf-8") for top in ("beam_jobs", "shard_reader") for path in (REPOSITORY / top).rglob("*.py")
    )
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # strings over several lines
    for heading in headings:
        # Words in capitals, and quoted ones, stand for the user's own.
        parts = [part.strip(" ,:;'\"()") for part in re.split(r"\b[A-Z][A-Z_0-9]*\b(?:\.[A-Z]+)?|\.\.\.", heading)]
        longest = max(parts, key=len)
        assert len(longest) > 7 and longest in code, heading


def test_the_table_of_sources_has_a_command_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = []
    for name, line in SOURCES:
        options = parse(shlex.split(line)[1:])
        kind = recognised(options.source)[0].kind
        found.append(kind)
        assert kind == (name.strip() or "records") or (name.strip(), kind) == ("your own", "custom_source:Database")
    assert found == [
        *("folder", "imagefolder", "table", "arrow", "coco", "yolo", "ndjson", "voc", "archive", "records", "records"),
        "custom_source:Database",
    ]


@pytest.mark.slow
def test_the_commands_of_the_table_of_sources_make_datasets_that_can_be_streamed(place: Path) -> None:
    for number, (_, line) in enumerate(SOURCES):
        words = [f"shards{number}" if word == "shards" else word for word in shlex.split(line)[1:]]
        result = command(*words)
        assert result.returncode == 0, f"{line}: {result.stderr}"
        data = open_dataset(place / f"shards{number}", "train")
        # Photos that keep their aspect ratio need a size for a batch; all others have one.
        transform = {} if data.fields["image"].is_fixed else {"image": CenterCrop(224)}
        assert bool(transform) == (not {"--fit", "--record"} & set(words))
        batch, *_ = data.stream(batch_size=6, seed=0, **transform)
        assert len(batch["image"]) == 6 and batch["weight"].all()


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("migrate/")])
def test_measured_gains_are_those_of_the_benchmarks(name: str) -> None:
    """`9.06 times the images/s of "a row"` is the ratio of that row in one of the tables."""
    tables = (REPOSITORY / "benchmarks/README.md").read_text("utf-8").splitlines()
    page = " ".join(PAGES[name].split())
    found = re.findall(r'([0-9.]+) times(?: the images/s of "(.+?)"| those of "(.+?)"| for )', page)
    assert found, "nothing measured"
    rows = [row for _, *names in found for row in names if row]
    for ratio, *names in found:
        label = next(filter(None, names), rows[0])
        assert any(f"| {label} |" in line and f" {ratio} (" in line for line in tables), (ratio, label)


def test_the_places_that_contributing_names_are_there() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"`([\w./]+(?:\.py|\.md|/))`", text)) - {"photos/", "cifar10/", "odd/"}  # of shared/data
    found = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    known = {f"/{place}" for name in found.splitlines() for place in (name, *map(str, Path(name).parents))}
    gone = [name for name in named if not any(place.endswith(f"/{name.rstrip('/')}") for place in known)]
    assert len(named) > 40 and not gone
