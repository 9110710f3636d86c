"""`image-shards report` and `prepare --report`: what is in the report, and that it is the same wherever it is made."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.command import REPOSITORY, command, prepared
from support.images import write_image
from support.messy import MESSY
from support.report_text import sections
from support.servers import Store
from support.stored import dataset, flip, record

from beam_jobs.cli.main import main
from shard_reader.format.manifest import with_checksum

GOLDEN = REPOSITORY / "tests/reader/format/golden/v1"
TFRECORD = "train-00000-of-00001.tfrecord"


def report(dataset: Path | str, folder: Path) -> Path:
    """The report of the command, which must succeed."""
    result = command("report", dataset, "--output", folder / "report.html")
    assert (result.returncode, result.stderr) == (0, "")
    return folder / "report.html"


def test_the_first_section_names_all_that_is_wrong_with_the_messy_folder(messy_shards: Path) -> None:
    first = sections(messy_shards / "report.html")["first"]
    found = [
        "problem Took train for a class, by the name a split or a part of a dataset If so, give the folder inside",
        "problem 2 images with the bytes of another, under another label At least one label of each pair is wrong.",
        "cat/03.png cat in",
        "dog/also-a-cat.png dog in",
        "--drop-duplicates --duplicate-labels drop --overwrite",
        "in another split than an image with the same bytes An evaluation would see images of the training.",
        "3 inputs could not be used: 1 damaged, 1 empty, 1 not-an-image",
        "train/cat/cut-off.jpg",
        "train/dog/empty.jpg",
        "train/dog/page.jpg",
        "1 image of one colour Nothing can be learned from these.",
        "train/dog/grey.png",
        "--exclude FILE --overwrite",
        "with the bytes of another in the same split A training sees these more often than others.",
    ]
    assert [text for text in found if text not in first] == []
    assert first.index("problem") < first.index("check")


def test_the_other_sections_show_it(messy_shards: Path) -> None:
    found = sections(messy_shards / "report.html")
    assert "image-shards prepare INPUT OUTPUT --size 64 --split train=0.8,val=0.2" in found["about"]
    assert "Source folder, the default Layout split folders (train) of 3 class folders" in found["about"]
    assert "class train val all" in found["classes"]
    assert "damaged train/cat/cut-off.jpg" in found["rejects"]
    assert "empty train/dog/empty.jpg the file has no bytes" in found["rejects"]
    assert found["duplicates"].count("other label") >= 2
    assert "Images of one colour train/dog/grey.png" in found["pixels"]
    assert "images enlarged; --only-shrink leaves them small" in found["changes"]


@pytest.mark.slow
def test_one_and_two_workers_give_the_same_report(messy: Path, messy_shards: Path, tmp_path: Path) -> None:
    shards = prepared(messy, tmp_path / "elsewhere", *MESSY, "--report", "--workers", 2)
    assert (shards / "report.html").read_bytes() == (messy_shards / "report.html").read_bytes()


def test_a_report_says_nothing_of_the_machine(messy: Path, messy_shards: Path, tmp_path: Path) -> None:
    found = report(messy_shards, tmp_path).read_bytes()
    assert found == (messy_shards / "report.html").read_bytes()
    for place in (messy, messy_shards, tmp_path):
        assert str(place).encode() not in found
        assert str(place.parent).encode() not in found


@pytest.mark.slow
def test_a_finished_dataset_gets_its_report_from_the_same_command(messy: Path, tmp_path: Path) -> None:
    words = [messy, tmp_path / "shards", *MESSY]
    shards = prepared(*words)
    assert not (shards / "report.html").exists()
    result = command("prepare", *words, "--report")
    assert "is finished, nothing to do" in result.stdout
    assert f"report:\n  {shards}/report.html: " in result.stdout
    assert "problems among them" in result.stdout
    verified = command("verify", shards)
    assert (verified.returncode, "does not know" in verified.stdout) == (0, False)
    prepared(*words, "--overwrite")
    assert not (shards / "report.html").exists()


@pytest.mark.slow
def test_a_dataset_in_a_store_has_the_same_report(
    messy_shards: Path, tmp_path: Path, new_store: Callable[[str], Store]
) -> None:
    store = new_store("moto")
    url = store.copy(messy_shards, "shards")
    environment = {**os.environ, **store.environment}
    result = command("report", url, "--output", tmp_path / "report.html", env=environment)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "report.html").read_bytes() == (messy_shards / "report.html").read_bytes()


@pytest.mark.slow
def test_both_formats_have_the_same_pictures(class_folders: Path, tmp_path: Path) -> None:
    pictures = []
    for name in ("tfrecord", "hdf5"):
        shards = prepared(class_folders, tmp_path / name, "--size", 16, "--format", name)
        text = report(shards, tmp_path).read_text("utf-8")
        pictures.append([part.partition('"')[0] for part in text.split('src="')[1:]])
    assert pictures[0] == pictures[1] != []


@pytest.mark.parametrize(("name", "images"), [("encoded", 3), ("fields", 2), ("raw", 5)])
def test_a_dataset_of_an_earlier_version_says_what_it_lacks(name: str, images: int, tmp_path: Path) -> None:
    found = sections(report(GOLDEN / name, tmp_path))
    assert found[""].startswith(f"{images} images")
    assert "This dataset does not have the sizes of the images before they were resized" in found["sizes"]


def test_tfrecords_of_others(tmp_path: Path) -> None:
    foreign = pytest.importorskip("support.foreign_records", reason="needs TensorFlow", exc_type=ImportError)
    foreign.write(
        tmp_path / TFRECORD,
        ({"image/encoded": foreign.image_bytes(n), "image/class/label": n % 2} for n in range(8)),
    )
    foreign.indexed(tmp_path)
    found = sections(report(tmp_path, tmp_path))
    assert "Made by image-shards index" in found["about"]
    assert "image-shards prepare" not in found["about"]
    assert f"{TFRECORD}:0" in found["gallery"]
    assert "does not have the sizes of the images before" in found["sizes"]


def test_a_dataset_without_anything_suspicious(tmp_path: Path) -> None:
    for number in range(12):
        write_image(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png", number, (40, 40))
    shards = prepared(tmp_path / "photos", tmp_path / "shards", "--size", "32x32")
    result = command("report", shards, "--output", tmp_path / "report.html")
    assert result.stdout.startswith(f"{tmp_path / 'report.html'}: nothing suspicious, ")
    assert "Nothing suspicious was found" in sections(tmp_path / "report.html")["first"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "note"),
    [
        ("--normalize imagenet", "shown as 0 to 255"),
        ("--normalize unit --dtype float16", "0 to 1 shown as 0 to 255"),
        ("--dtype uint16", "16 bits shown as 8"),
        ("--channels grey --encoding png", ""),
    ],
)
def test_pixels_of_every_kind_have_pictures(options: str, note: str, class_folders: Path, tmp_path: Path) -> None:
    shards = prepared(class_folders, tmp_path / "shards", "--size", "16x16", *options.split())
    path = report(shards, tmp_path)
    assert path.read_text("utf-8").count("<img ") > 36
    assert note in sections(path)["gallery"]


def test_a_damaged_shard_is_named_and_the_others_are_shown(class_folders: Path, tmp_path: Path) -> None:
    shards = prepared(class_folders, tmp_path / "shards", "--size", 16, "--shard-records", 20)
    os.truncate(shards / "train-00001-of-00003.tfrecord", 100)
    flip(shards / "train-00000-of-00003.tfrecord", 400)  # in the pixels of a record
    found = sections(report(shards, tmp_path))
    assert "problem 1 shard cannot be read train-00001-of-00003.tfrecord: " in found["first"]
    assert "image-shards verify DATASET" in found["first"]
    assert "Sizes are from the indexes of 40 of 60 images." in found["method"]
    assert "is damaged (CRC mismatch)" in found["gallery"]


def changed(shards: Path, folder: Path, name: str, lines: list[bytes]) -> Path:
    """A copy of a dataset in which a list has other lines."""
    copy = folder / "copy"
    shutil.copytree(shards, copy)
    (copy / name).write_bytes(b"".join(lines))
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rejects.jsonl", "suspects.jsonl", "duplicates.jsonl", "thumbnails.jsonl"])
@pytest.mark.parametrize(
    "line",
    [
        b"?\n",
        b"[]\n",
        b'{"id": 5}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"id": "' + b"a" * (1 << 22) + b'"}\n',
    ],
    ids=["no-json", "no-object", "no-id", "no-text", "deep", "long"],
)
def test_a_list_that_is_no_list_is_named(name: str, line: bytes, messy_shards: Path, tmp_path: Path) -> None:
    copy = changed(messy_shards, tmp_path, name, [line])
    assert f"{name}: line 1 cannot be read" in sections(report(copy, tmp_path))["first"]


def test_lists_may_hold_anything(messy_shards: Path, tmp_path: Path) -> None:
    odd = [None, True, 7, 1.5, "\u202e<b>", [], [["a"]], {"a": 1}]
    lines = [
        json.dumps({"id": "x", **dict.fromkeys(("first_id", "split", "labels", "reason", "message", "distance"), value),
                    **dict.fromkeys(("group", "before", "after", "leak", "near", "contradiction"), value)}).encode()
        for value in odd
    ]  # fmt: skip
    text = "\n".join(map(bytes.decode, lines)) + "\n"
    for name in ("rejects.jsonl", "suspects.jsonl", "duplicates.jsonl", "thumbnails.jsonl"):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        found = report(changed(messy_shards, tmp_path, name, [text.encode()]), tmp_path).read_text("utf-8")
        assert "\u202e" not in found
        assert "<b>" not in found.replace("<b><span>", "")


def test_a_manifest_may_say_anything(tmp_path: Path) -> None:
    path = dataset(tmp_path / "shards", [record("a"), record("b", 1)])
    body = json.loads((path / "dataset.json").read_text("utf-8"))
    body["warnings"] = ["</style>" + "x" * 100_000, *["again"] * 20]
    body["options"] = {"image": {"fit": [], "width": "\x1b[2J", "dtype": 7}, "shards": 5, "source": {"a b": "$(ls)"},
                       "input": "s3://user:password@bucket/photos", "why": {"a": []}}  # fmt: skip
    body["options"]["near_duplicates"] = "https://host/?X-Amz-Signature=secret"
    (path / "dataset.json").write_text(with_checksum(body), "utf-8")
    text = report(path, tmp_path).read_text("utf-8")
    assert len(text) < 100_000
    assert not [secret for secret in ("password", "secret", "\x1b") if secret in text]
    assert "11 further warnings" in text


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("missing/report.html", "--output {}: there is no such folder; give a local file"),
        ("", "--output {}: is a folder; give the name of a file"),
    ],
)
def test_a_place_where_no_file_can_be(output: str, message: str, raw_shards: Path, tmp_path: Path) -> None:
    place = tmp_path / output
    result = command("report", raw_shards, "--output", place)
    assert result.returncode == 2
    assert result.stderr == f"image-shards: error: {message.format(place)}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a file's size is the system's")
def test_a_report_that_finds_no_room_is_named_and_not_there(raw_shards: Path, tmp_path: Path) -> None:
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (10_000, 10_000))
    result = command("report", raw_shards, "--output", tmp_path / "report.html", preexec_fn=limit)
    assert (result.returncode, result.stderr) == (
        1,
        f"image-shards: error: {tmp_path}/report.html: File too large\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_were_dropped_are_listed_and_are_no_finding(tmp_path: Path) -> None:
    for number in range(6):
        write_image(tmp_path / "in" / "ab"[number % 2] / f"{number}.png", number, (40, 40))
        write_image(tmp_path / "in" / "ab"[number % 2] / f"{number} large.png", number, (80, 80))
    shutil.copy(tmp_path / "in/a/0.png", tmp_path / "in/a/0 again.png")
    options = ("--size", 32, "--near-duplicates", "drop", "--drop-duplicates")
    found = sections(report(prepared(tmp_path / "in", tmp_path / "out", *options), tmp_path))
    assert "near-duplicate" not in found["first"] and "could not be used" not in found["first"]
    assert "looks like a/0 large.png" in found["rejects"] and "has the same bytes as a/0" in found["rejects"]


def test_no_dataset(tmp_path: Path) -> None:
    result = command("report", tmp_path, "--output", tmp_path / "report.html")
    assert result.returncode == 2
    assert "is no dataset, it has no dataset.json" in result.stderr
    assert not (tmp_path / "report.html").exists()


def test_a_missing_library_names_the_extra(
    raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["report", str(raw_shards), "--output", str(tmp_path / "report.html")]) == 2
    assert capsys.readouterr().err == "image-shards: error: needs jinja2: pip install 'image-shards[report]'\n"


def test_it_is_opened_in_a_browser(
    raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = list[str]()
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) is None)
    words = ["report", str(raw_shards), "--output", str(tmp_path / "a b.html"), "--open"]
    assert main(words) == 0
    assert opened == [f"file://{tmp_path}/a%20b.html"]
    monkeypatch.setattr("webbrowser.open", lambda url: False)
    assert main(words) == 1
    assert "a b.html: is written, but there is no browser to open it" in capsys.readouterr().err
