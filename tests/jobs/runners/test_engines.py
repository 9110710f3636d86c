"""The command on the engines that Beam can start on this machine; `scripts/engines` fetches them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from support.command import prepared
from support.images import write_image

ENGINES = Path(sys.prefix) / "engines"
OPTIONS = ("--shards", "8")
pytestmark = pytest.mark.slow  # each test starts an engine


def one_of(engine: str) -> list[str]:
    """The options that choose an engine."""
    place, option, needed = {
        "flink": (ENGINES / "flink/job-server.jar", "--flink_job_server_jar", "java"),
        "spark": (ENGINES / "spark/job-server.jar", "--spark_job_server_jar", "java"),
        "prism": (ENGINES / "prism", "--prism_location", str(ENGINES / "prism")),
    }[engine]
    if not place.exists() or not shutil.which(needed):
        pytest.skip(f"no {place} or no {needed}: run scripts/engines {engine}")
    return [f"--runner={engine.title()}Runner", f"{option}={place}"]


def start(temporary: Path, *arguments: object) -> subprocess.Popen[str]:
    """The command, in a process group of its own, with a directory of its own for temporary files."""
    temporary.mkdir()
    words = [sys.executable, "-m", "beam_jobs", "prepare", *map(str, arguments)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment)


def gone(process: subprocess.Popen[str]) -> None:
    """Every process of the group has ended, or does so in a moment."""
    deadline = time.monotonic() + 300
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


def ended(process: subprocess.Popen[str], temporary: Path) -> str:
    """What the command wrote on standard error, once it has ended and left no process and no file behind."""
    try:
        _, errors = process.communicate(timeout=300)
        gone(process)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert list(temporary.iterdir()) == []
    return errors


def checksums(dataset: Path) -> list[dict[str, dict[str, list[str]]]]:
    """Names, sizes and sha256 of every shard and every index."""
    splits = json.loads((dataset / "dataset.json").read_text("utf-8"))["splits"]
    return [split["shards"]["files"] for split in splits.values()]


@pytest.fixture(params=["flink", "spark", "prism"])
def engine(request: pytest.FixtureRequest) -> list[str]:
    return one_of(request.param)


@pytest.fixture(scope="module")
def local(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(photos, tmp_path_factory.mktemp("local") / "shards", *OPTIONS)


def test_the_shards_are_those_of_the_local_run(engine: list[str], photos: Path, local: Path, tmp_path: Path) -> None:
    process = start(tmp_path / "tmp", photos, tmp_path / "shards", *OPTIONS, *engine)
    errors = ended(process, tmp_path / "tmp")
    assert process.returncode == 0, errors
    # What was found in INPUT, a warning about it, and that it was submitted: nothing of the engine's.
    # On a slow machine it is also said how far it is.
    said = [line for line in errors.splitlines() if "shards finished" not in line]
    assert [line.startswith("warning: ") for line in said] == [False, True, False]
    assert [len(files["tfrecord"]["path"]) for files in checksums(local)] == [8]
    assert checksums(tmp_path / "shards") == checksums(local)


@pytest.mark.nightly
def test_a_pre_pass_and_a_table(engine: list[str], class_folders: Path, tmp_path: Path) -> None:
    """Two pipelines, one after the other, on inputs that workers find by a table: hashes of bytes, and of pixels."""
    names = [str(path.relative_to(class_folders)) for path in sorted(class_folders.rglob("*.*"))]
    shutil.copytree(class_folders, tmp_path / "in")
    shutil.copy(tmp_path / "in" / names[0], tmp_path / "in/again.jpg")
    Image.open(tmp_path / "in" / names[1]).resize((90, 80)).save(tmp_path / "in/large.png")
    more = ["again.jpg", "large.png", "missing.jpg"]
    rows = [f"{name},{number / 4},{name[0]}" for number, name in enumerate([*names, *more])]
    (tmp_path / "in/table.csv").write_text("\n".join(["path,age,label", *rows]))
    options = [*OPTIONS, "--size", 16, "--drop-duplicates", "--near-duplicates", "drop", "--max-rejects", 1]
    expected = prepared(tmp_path / "in/table.csv", tmp_path / "here", *options)
    output = tmp_path / "there"
    process = start(tmp_path / "tmp", tmp_path / "in/table.csv", output, *options, *engine)
    errors = ended(process, tmp_path / "tmp")
    assert process.returncode == 0, errors
    assert checksums(output) == checksums(expected)
    rejects = [json.loads(line) for line in (output / "rejects.jsonl").read_text().splitlines()]
    assert sorted(reject["reason"] for reject in rejects) == ["duplicate", "missing", "near-duplicate"]


@pytest.mark.nightly
def test_images_inside_of_parquet(engine: list[str], photos: Path, tmp_path: Path) -> None:
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    columns = {
        "image": [{"bytes": path.read_bytes(), "path": path.name} for path in files],
        "label": [path.parent.name for path in files],
    }
    (tmp_path / "in").mkdir()
    parquet.write_table(pa.table(columns), tmp_path / "in/train-00000-of-00001.parquet", row_group_size=100)
    expected = prepared(tmp_path / "in", tmp_path / "here", *OPTIONS)
    process = start(tmp_path / "tmp", tmp_path / "in", tmp_path / "there", *OPTIONS, *engine)
    errors = ended(process, tmp_path / "tmp")
    assert process.returncode == 0, errors
    assert checksums(tmp_path / "there") == checksums(expected)
    assert json.loads((expected / "dataset.json").read_text())["splits"]["train"]["records"] == len(files)


@pytest.mark.nightly
def test_photos_with_masks(engine: list[str], photos: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(path for path in photos.rglob("*") if path.is_file())):
        with Image.open(path) as image:
            half = image.convert("L").resize((max(1, image.width // 2), max(1, image.height // 2)))
        for name, save in (("images", path.suffix), ("masks", ".png")):
            target = tmp_path / "in" / name / f"{number}{save}"
            target.parent.mkdir(parents=True, exist_ok=True)
            half.save(target) if name == "masks" else shutil.copy(path, target)
    words = (*OPTIONS, "--fit", "pad", "--size", 96, "--mask-border", 255, "--max-rejects", "0.1")
    expected = prepared(tmp_path / "in", tmp_path / "here", *words)
    process = start(tmp_path / "tmp", tmp_path / "in", tmp_path / "there", *words, *engine)
    errors = ended(process, tmp_path / "tmp")
    assert process.returncode == 0, errors
    assert checksums(tmp_path / "there") == checksums(expected)
    assert json.loads((expected / "dataset.json").read_text())["fields"]["mask"]["role"] == "mask"


METRICS = """
import json, sys
from apache_beam.runners.portability.portable_runner import PipelineResult
from beam_jobs.cli.main import main

def wait_until_finish(result, *arguments, real=PipelineResult.wait_until_finish):
    state = real(result, *arguments)
    counters = result.metrics().query()["counters"]
    of_job = [one for one in counters if one.key.metric.namespace == "image-shards"]
    # Spark commits none of them.
    values = {one.key.metric.name: one.attempted if one.committed is None else one.committed for one in of_job}
    print("METRICS", json.dumps(values))
    return state

if __name__ == "__main__":
    PipelineResult.wait_until_finish = wait_until_finish
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.nightly
def test_an_engine_has_the_counters_of_the_job(engine: list[str], class_folders: Path, tmp_path: Path) -> None:
    """Those that its own pages show."""
    shutil.copytree(class_folders, tmp_path / "in")
    (tmp_path / "in/a/empty.jpg").write_bytes(b"")
    (tmp_path / "job.py").write_text(METRICS)
    words = ["prepare", tmp_path / "in", tmp_path / "out", "--size", 16, "--shards", 3, "--max-rejects", 1, *engine]
    result = subprocess.run(
        [sys.executable, str(tmp_path / "job.py"), *map(str, words)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("METRICS "))
    found = json.loads(line.removeprefix("METRICS "))
    files = sum(path.stat().st_size for path in class_folders.rglob("*.*"))
    expected = {"shards": 3, "images": 60, "rejected": 1, "rejected_empty": 1, "bytes_in": files}
    assert {name: found[name] for name in expected} == expected


def test_a_failure_is_said_as_the_job_says_it(engine: list[str], tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / "images" / f"{number}.jpg", number)
    (tmp_path / "images" / "4.jpg").write_text("no image")
    process = start(tmp_path / "tmp", tmp_path / "images", tmp_path / "shards", "--max-rejects", "0", *engine)
    errors = ended(process, tmp_path / "tmp")
    first, *others = errors.partition("image-shards: error: ")[2].splitlines()
    assert process.returncode == 1
    assert "Runner failed: of 5 images, at least 1 cannot be used" in first
    assert len(others) == 3
    assert others[2] == "1 of 1 shard finished and kept: the same command goes on from there"
    assert "Traceback" not in errors


def at_work(photos: Path, tmp_path: Path, engine: list[str]) -> subprocess.Popen[str]:
    """The command, with shards that are being written."""
    process = start(tmp_path / "tmp", photos, tmp_path / "shards", *OPTIONS, "--size", "3000", *engine)
    while process.poll() is None and not list((tmp_path / "shards").glob("_work/*/attempts/*/*")):
        time.sleep(0.05)
    return process


def test_ctrl_c_leaves_nothing(engine: list[str], photos: Path, tmp_path: Path) -> None:
    process = at_work(photos, tmp_path, engine)
    process.send_signal(signal.SIGINT)
    errors = ended(process, tmp_path / "tmp")
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "image-shards: error: interrupted; OUTPUT is as it was"
    assert not (tmp_path / "shards").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends the engine")
def test_kill_9_takes_the_engine_along(engine: list[str], photos: Path, local: Path, tmp_path: Path) -> None:
    process = at_work(photos, tmp_path, engine)
    process.kill()
    process.communicate(timeout=300)
    gone(process)
    # What it left keeps nobody from beginning anew.
    assert checksums(prepared(photos, tmp_path / "shards", *OPTIONS, "--overwrite")) == checksums(local)
