"""`image-shards inspect`, and what the commands have in common: help, and starting without Beam."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import REPOSITORY, command, prepared
from support.images import write_image
from support.servers import Store
from support.stored import FIELDS, cut, dataset, flip, record, remove

from beam_jobs.cli.commands import COMMANDS
from beam_jobs.tools import inspect as inspecting
from shard_reader.format import index_name
from shard_reader.format.manifest import with_checksum

GOLDEN = REPOSITORY / "tests/reader/format/golden/v1"
TFRECORD = "train-00000-of-00002.tfrecord"

SHOWN = """\
{path}: tfrecord and hdf5, 3 records, 24.4 kB
  train      3 records, 2 shards, tfrecord 0.7 kB, hdf5 23.8 kB
fields
  image      uint8 [*, *, 3], png
  label      int64
  id         string
  height     int64
  width      int64
classes      2: a, b
sizes        smallest, median, largest
  height     1, 2, 2
  width      1, 2, 3
  stored     0.1 kB, 0.1 kB, 0.1 kB
statistics   mean 0.2500 0.5000 0.7500, std 0.1000 0.2000 0.3000 (of train, 0 to 1)
inputs       1 ignored, 3 planned, 3 written
made         by prepare
  size 2
seed         7, fingerprint 867c7e1c2bc46f9b
records      of train: id, label, height x width, bytes
  a/1.png  a  2 x 1  0.1 kB
  b/größer.png  b  1 x 2  0.1 kB
  b/longlonglonglonglonglonglonglonglon...  b  2 x 3  0.1 kB
"""


def test_what_a_dataset_holds() -> None:
    result = command("inspect", GOLDEN / "encoded")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == SHOWN.format(path=GOLDEN / "encoded")


FURTHER = """\
fields
  image          uint8 [*, *, 3], png
  id             string
  height         int64
  width          int64
  mask           uint8 [*, *, 1], png, mask
  instances      uint16 [*, *, 1], raw, mask
  depth          uint16 [*, *, 1], png, depth
  small          float32 [1, 1, 1], raw, depth
  after          uint8 [*, *, 3], png, photo
  audio/wav      bytes
  objects/bbox   float32 [*, 4], boxes
  objects/centre float32 [*, 2], points
  ... 1 more
classes      none
sizes        smallest, median, largest
  height     1, 1, 2
  width      1, 2, 2
  stored     0.1 kB, 0.1 kB, 0.1 kB
  mask       0.1 kB, 0.1 kB, 0.1 kB
  instances  0.0 kB, 0.0 kB, 0.0 kB
  depth      0.1 kB, 0.1 kB, 0.1 kB
  small      0.0 kB, 0.0 kB, 0.0 kB
  ... 1 more
"""


def test_fields_of_every_kind() -> None:
    facts = inspecting.facts(str(GOLDEN / "payloads"))
    assert FURTHER in inspecting.describe(facts)
    kinds = {name: (field["kind"], field.get("role")) for name, field in facts["fields"].items()}
    assert kinds["mask"] == ("image", "mask") and kinds["audio/wav"] == ("bytes", None)
    assert facts["fields"]["objects/keypoints"] == {
        "kind": "list",
        "dtype": "float32",
        "shape": [None, 3, 3],
        "role": "keypoints",
        "names": ["nose", "left eye", "right eye"],
        "flip_pairs": [[1, 2]],
    }
    assert facts["sizes"]["further"]["after"] == {"height": [2, 2, 2], "width": [3, 3, 3], "length": [78, 78, 78]}


def test_what_prepare_wrote(raw_shards: Path) -> None:
    shown = command("inspect", raw_shards).stdout
    assert re.search(
        r"\n  train      48 records, 3 shards, tfrecord .* kB, hdf5 .* kB\n  val        12 records, 1", shown
    )
    assert "\n  image      uint8 [12, 16, 3], raw\n" in shown
    assert "\n  of inputs  original_height, original_width, content_hash, phash, dhash, values_hash\n" in shown
    assert "\nclasses      3: a, b, c\n  most       a 20, b 20, c 20\n" in shown
    assert "\n  height     12, 12, 12\n  width      16, 16, 16\n" in shown
    assert "width 16, height 12, fit crop" in shown
    assert re.search(r"\nmade         by prepare from /.*\n", shown)
    assert len(re.findall(r"\n  [abc]/0\d\d\.(?:png|jpg)  [abc]  12 x 16  0\.6 kB", shown)) == 3


def test_a_bucket_that_is_not_there_is_said_as_the_reader_says_it(new_store: Callable[[str], Store]) -> None:
    environment = {**os.environ, **new_store("moto").environment}
    for name in ("inspect", "verify"):
        result = command(name, "s3://no-such-bucket/shards", env=environment)
        assert result.returncode == 2
        assert "error: s3://no-such-bucket/shards: there is no such bucket, asked at http" in result.stderr


def test_changes_are_in_a_line_of_their_own(tmp_path: Path) -> None:
    write_image(tmp_path / "photos/cat/1.jpg", 0, (8, 8))
    shown = command("inspect", prepared(tmp_path / "photos", tmp_path / "shards", "--size", 16)).stdout
    assert re.search(r"\ninputs       1 planned, 1 written\nchanged      1 enlarged\n", shown)


def test_it_is_one_screen(tmp_path: Path) -> None:
    """However many splits, shards, fields and classes there are."""
    path = dataset(tmp_path / "data", *([record(f"{n}", n % 2)] for n in range(9)), classes={"a": 5, "b": 4})
    body = json.loads((path / "dataset.json").read_text("utf-8"))
    body["class_names"] = [f"a class with a rather long name, {n}" for n in range(1000)]
    body["splits"]["train"]["classes"] = {name: 7 for name in body["class_names"]}
    body["splits"] |= {f"split{n}": {"records": 0, "shards": []} for n in range(20)}
    body["options"] = {f"option{n}": "x" * 30 for n in range(40)}
    (path / "dataset.json").write_text(with_checksum(body), "utf-8")
    lines = command("inspect", path).stdout.splitlines()
    assert len(lines) <= 32
    assert max(map(len, lines[1:])) <= 80
    assert "  ... 16 more" in lines


def test_sizes_of_many_shards_are_those_of_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dataset(tmp_path / "data", *([record(f"{n}", height=n + 1)] for n in range(7)), [])
    assert "sizes        smallest, median, largest\n  height     1, 4, 7\n" in inspecting.describe(
        inspecting.facts(str(path))
    )
    monkeypatch.setattr(inspecting, "_MOST_INDEXES", 3)
    shown = inspecting.describe(inspecting.facts(str(path)))
    assert "sizes        smallest, median, largest (from 3 of 7 shards)\n  height     1, 4, 7\n" in shown


def test_the_same_as_json(jpeg_shards: Path) -> None:
    shown = json.loads(command("inspect", jpeg_shards, "--json").stdout)
    assert (shown["records"], shown["formats"], shown["splits"]["train"]["shards"]) == (60, ["tfrecord", "hdf5"], 2)
    assert shown["classes"] == {"names": ["a", "b", "c"], "named": True, "counts": {"a": 20, "b": 20, "c": 20}}
    assert [len(shown[name]) for name in ("examples", "fields")] == [3, 11]


def test_a_dataset_without_records(tmp_path: Path) -> None:
    result = command("inspect", dataset(tmp_path / "data", []))
    assert (result.returncode, result.stderr) == (0, "")
    assert "tfrecord and hdf5, 0 records, " in result.stdout


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove(TFRECORD), "{}: of 4 shard files, 1 are missing: " + TFRECORD + "; restore them from a copy"),
        (remove(index_name(TFRECORD)), "{}/" + index_name(TFRECORD) + ": is missing; `image-shards index {}` makes it"),
        (lambda path: flip(path / index_name(TFRECORD), -1), "is damaged or belongs to another dataset"),
        (cut(TFRECORD, 500), "{}/" + TFRECORD + ": has 500 bytes, the manifest says 695; `image-shards verify {}`"),
    ],
)  # fmt: skip
def test_damage_is_one_line(tmp_path: Path, damage: object, message: str) -> None:
    path = Path(shutil.copytree(GOLDEN / "encoded", tmp_path / "data"))
    damage(path)  # type: ignore[operator]
    result = command("inspect", path)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert message.replace("{}", str(path)) in line


# What the commands have in common

WITHOUT = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
from beam_jobs.cli.main import main
status = main(sys.argv[1:])
assert "tensorflow" not in sys.modules
sys.exit(status)
"""
BEAM = ["apache_beam", "tqdm", "fsspec", "cv2", "xxhash", "pyarrow", "cykooz", "ijson"]
CODECS = ["h5py", "PIL", "simplejpeg"]


def run_without(missing: list[str], *words: object) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(missing=missing)
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True)


def test_looking_at_datasets_needs_no_beam(tmp_path: Path) -> None:
    assert run_without(BEAM + CODECS, "inspect", GOLDEN / "encoded").returncode == 0
    assert run_without(BEAM, "verify", GOLDEN / "encoded", "--decode", "--workers", 1).returncode == 0
    path = Path(shutil.copytree(GOLDEN / "encoded", tmp_path / "data"))
    (path / index_name(TFRECORD)).unlink()
    result = run_without(BEAM, "index", path, "--workers", 1)
    assert (result.returncode, result.stdout) == (0, f"{path}: 1 index made again, 3 whole\n")


@pytest.mark.parametrize(
    ("words", "name", "missing", "extra"),
    [
        (["verify"], "encoded", "h5py", "hdf5"),
        (["index"], "encoded", "h5py", "hdf5"),
        (["verify", "--decode"], "encoded", "PIL", "decode"),
        (["verify"], "payloads", "PIL", "decode"),  # for the sizes of further images
        (["index"], "payloads", "PIL", "decode"),
    ],
    ids=str,
)
def test_a_missing_package_says_what_to_install(words: list[str], name: str, missing: str, extra: str) -> None:
    result = run_without([missing], *words, GOLDEN / name)
    assert result.returncode == 2
    assert result.stderr == f"image-shards: error: needs {missing}: pip install 'image-shards[{extra}]'\n"


def test_help_has_a_line_for_each_command() -> None:
    result = command("--help")
    assert result.returncode == 0
    for name, entry in COMMANDS.items():
        assert re.search(rf"^ +{name}\s+{re.escape(entry.summary)}$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_for_a_terminal(name: str) -> None:
    result = command(name, "--help", env=os.environ | {"COLUMNS": "80"})
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: image-shards {name} ")
    assert f"image-shards {name} " in result.stdout.partition("\n")[2] or name == "prepare"


def test_every_command_can_be_loaded() -> None:
    assert all(callable(entry.load()) for entry in COMMANDS.values())


def test_the_version() -> None:
    assert re.fullmatch(r"image-shards \d+\.\d+\.\d+\n", command("--version").stdout)


def test_the_fields_of_these_tests_are_those_of_the_golden_dataset() -> None:
    shown = json.loads(command("inspect", GOLDEN / "encoded", "--json").stdout)["fields"]
    assert {name: field["dtype"] for name, field in shown.items()} == {n: field.dtype for n, field in FIELDS.items()}
