"""`image-shards join`: one dataset over the shards of several, which stay where they are."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from support.command import command, prepared
from support.images import write_image
from support.killing import changes, killed_at
from support.stored import SEVERAL, several, write_manifest

from beam_jobs.errors import UsageError
from beam_jobs.generations.joining import join as joining
from beam_jobs.generations.joining.join import join
from beam_jobs.generations.relabeled.relabel import RelabelOptions, relabel
from beam_jobs.generations.withdraw import withdraw
from beam_jobs.shards.write import store
from beam_jobs.tools.checks.verify import Verification
from shard_reader import CorruptionError, Dataset, concat, open_dataset
from shard_reader.format import shard_name
from shard_reader.format.manifest import Manifest

FORMATS = ("tfrecord", "hdf5")


def plain(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in record.items()}


def with_names(data: Dataset) -> list[dict[str, Any]]:
    """The records, with the names of classes in place of their numbers."""
    found, names = [], data.class_names or ()
    for record in map(plain, data):
        record["label"] = names[record["label"]]
        record["objects/label"] = [names[number] for number in record["objects/label"]]
        found.append(record)
    return found


def part(place: Path, prefix: str, names: tuple[str, ...] | None, **options: Any) -> Path:
    """A dataset whose ids begin with a text, and whose classes have these names."""
    made = several(place.parent / f"{place.name}-source", 6, size=(4, 6), encoding="raw", **options)
    data = open_dataset(made)
    shards, manifest = [], data.manifest
    place.mkdir()
    for number, shard in enumerate(manifest.splits["train"].shards):
        first = int(data.shard_records()[:number].sum())
        records = [dict(data[first + row]) for row in range(shard.records)]
        for record in records:
            record |= {"id": prefix + record["id"], "height": 4, "width": 6}
            record |= {name: record[name].tobytes() for name, field in manifest.fields.items() if field.is_image}
        paths = {format: place / shard_name("train", number, 2, format) for format in manifest.formats}
        shards.append(store(records, paths, manifest.fields))
    write_manifest(place, manifest.fields, shards, formats=manifest.formats, class_names=names)
    shutil.rmtree(made)
    return place


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    return [part(tmp_path / "a", "a/", ("a", "b", "c")), part(tmp_path / "b", "b/", ("c", "z", "a"))]


def joined(places: list[Path], out: Path | str, workers: int = 1) -> Manifest:
    return join([str(place) for place in places], str(out), workers).manifest


def problems(place: Path | str) -> list[str]:
    found: list[str] = []
    with closing(Verification(str(place), decode=True)) as verification:
        verification.run(1, found.append, lambda: None)
    return found


def files_of(place: Path) -> dict[str, str]:
    return {
        str(file.relative_to(place)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in place.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("format", FORMATS)
def test_records_are_those_of_the_parts_and_classes_keep_their_names(
    parts: list[Path], tmp_path: Path, format: str
) -> None:
    before = [files_of(place) for place in parts]
    manifest = joined(parts, tmp_path / "all")
    data = open_dataset(tmp_path / "all", format=format)
    assert with_names(data) == [one for place in parts for one in with_names(open_dataset(place, format=format))]
    assert data.class_names == ("a", "b", "c", "z")
    assert manifest.requires == ("joined", "payloads", "relabeled")
    shards = manifest.splits["train"].shards
    assert [shard.files["tfrecord"].path.rpartition("/")[0] for shard in shards] == ["../a", "../a", "../b", "../b"]
    assert [bool(shard.files["tfrecord"].replaced_index) for shard in shards] == [False, False, True, True]
    assert [files_of(place) for place in parts] == before
    assert [(one.number, one.made) for one in data.generations()] == [(1, "join")]
    assert problems(tmp_path / "all") == []


def test_the_same_classes_need_no_new_index(tmp_path: Path) -> None:
    places = [part(tmp_path / name, f"{name}/", ("x", "y", "z")[:count]) for name, count in (("a", 2), ("b", 3))]
    # The first has labels beyond its names, which stay what they are.
    manifest = joined(places, tmp_path / "all")
    assert manifest.requires == ("joined", "payloads") and manifest.class_names == ("x", "y", "z")
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert names == ["README.md", "croissant.json", "dataset.json", "g0001"]


@pytest.mark.parametrize("order", ["full", "window"])
def test_a_join_streams_as_a_concatenation(tmp_path: Path, order: str) -> None:
    places = [part(tmp_path / name, f"{name}/", ("x", "y", "z")) for name in "ab"]
    joined(places, tmp_path / "all")
    options: dict[str, Any] = {"batch_size": 4, "shuffle": order, "fields": ("id", "image", "objects/label"), "seed": 2}
    one = open_dataset(tmp_path / "all").stream(**options)
    other = concat([open_dataset(place) for place in places]).stream(**options)
    for first, second in itertools.islice(zip(one, other, strict=True), 3):
        assert first["id"].tolist() == second["id"].tolist()
        assert np.array_equal(first["image"], second["image"])


@pytest.mark.parametrize("way", ["ranges", "cache"])
def test_a_join_in_a_bucket(parts: list[Path], tmp_path: Path, way: str) -> None:
    bucket = f"memory://join-{tmp_path.name}-{way}"
    for place in parts:
        fsspec.filesystem("memory").put(str(place), f"/{bucket[9:]}/{place.name}", recursive=True)
    joined([f"{bucket}/a", f"{bucket}/b"], f"{bucket}/all")  # type: ignore[list-item]
    joined(parts, tmp_path / "all")
    data = open_dataset(f"{bucket}/all", **({"cache": tmp_path / "cache"} if way == "cache" else {}))
    assert with_names(data) == with_names(open_dataset(tmp_path / "all"))
    assert data.fingerprint == open_dataset(tmp_path / "all").fingerprint
    (batch,) = data.stream(batch_size=12, fields=("id", "objects/name"), shuffle="none")
    assert len(set(batch["id"].tolist())) == 12
    assert problems(f"{bucket}/all") == []
    data.close()


def test_what_was_withdrawn_from_a_part_stays_withdrawn(parts: list[Path], tmp_path: Path) -> None:
    withdraw(str(parts[0]), ["a/2.png"])
    withdraw(str(parts[1]), ["b/0.png", "b/5.png"])
    manifest = joined(parts, tmp_path / "all")
    data = open_dataset(tmp_path / "all")
    assert [row["id"] for row in data] == [row["id"] for place in parts for row in open_dataset(place)]
    assert (len(data), manifest.records, manifest.counts.written) == (9, 9, 9)
    # And what is withdrawn from a part later stays.
    withdraw(str(parts[0]), ["a/3.png"])
    assert len(open_dataset(tmp_path / "all")) == 9 and problems(tmp_path / "all") == []


def test_a_join_changes_as_any_dataset(parts: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "all"
    joined(parts, out)
    before = [files_of(place) for place in parts]
    first = with_names(open_dataset(out))
    (tmp_path / "t.jsonl").write_text(
        "\n".join(json.dumps({"id": id, "label": "new", "objects/label": []}) for id in ("a/0.png", "b/0.png"))
    )
    relabel(RelabelOptions(place=str(out), table=str(tmp_path / "t.jsonl")), 1)
    withdraw(str(out), ["b/1.png"])
    after = {row["id"]: row for row in with_names(open_dataset(out))}
    expected = {row["id"]: dict(row) for row in first if row["id"] != "b/1.png"}
    for id in ("a/0.png", "b/0.png"):
        expected[id]["label"] = "new"
    assert after == expected
    assert with_names(open_dataset(out, generation=1)) == first
    assert problems(out) == [] and [files_of(place) for place in parts] == before


def test_a_folder_of_its_user_is_not_removed(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "all/g0001").mkdir(parents=True)
    (tmp_path / "all/g0001/photo.jpg").touch()
    with pytest.raises(UsageError, match="has files, as g0001: give a new directory"):
        joined(parts, tmp_path / "all")
    assert (tmp_path / "all/g0001/photo.jpg").exists()


def test_a_join_of_joins_names_the_shards_themselves(parts: list[Path], tmp_path: Path) -> None:
    joined(parts, tmp_path / "ab")
    third = part(tmp_path / "deep", "c/", ("a", "b", "c", "z", "q"))
    manifest = joined([tmp_path / "ab", third], tmp_path / "all")
    folders = [shard.files["hdf5"].path.rpartition("/")[0] for shard in manifest.splits["train"].shards]
    assert folders == ["../a", "../a", "../b", "../b", "../deep", "../deep"]
    assert len(with_names(open_dataset(tmp_path / "all"))) == 18 and problems(tmp_path / "all") == []


def test_all_of_it_can_be_moved_together(parts: list[Path], tmp_path: Path) -> None:
    joined(parts, tmp_path / "all")
    (tmp_path / "moved").mkdir()
    for name in ("a", "b", "all"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert len([*open_dataset(tmp_path / "moved/all")]) == 12


def test_a_part_that_is_gone_is_named(parts: list[Path], tmp_path: Path) -> None:
    joined(parts, tmp_path / "all")
    shutil.rmtree(parts[1])
    data = open_dataset(tmp_path / "all")
    assert data[0]["id"] == "a/0.png"
    with pytest.raises(CorruptionError, match=r"\.\./b/train-00000-of-00002.tfrecord: is missing"):
        data[6]


def other_type(path: Path) -> Path:
    place = several(path, 2, size=(4, 6), encoding="raw", shards=1)
    manifest = Manifest.from_json((place / "dataset.json").read_text())
    fields = {**manifest.fields, "objects/name": SEVERAL["objects/label"]}
    (place / "dataset.json").write_text(replace(manifest, fields=fields).to_json())
    return place


def one_format(path: Path) -> Path:
    return part(path, "b/", ("a", "b", "c"), formats=("hdf5",))


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "one format": (one_format, "the formats are tfrecord and hdf5, and hdf5"),
    "no names": (lambda path: part(path, "b/", None), "the classes of one have names, and those of the other"),
    "a type": (other_type, "the field 'objects/name' is string [*] and int64 [*]"),
    "an encoding": (lambda path: several(path, 2), "the field 'image' is uint8 [4, 6, 3] raw and uint8 [*, *, 3] png"),
    "ids": (lambda path: part(path, "a/", ("a", "b", "c")), "6 ids occur twice, as 'a/0.png' of"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_datasets_that_do_not_fit_together_are_refused(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    first, other = part(tmp_path / "a", "a/", ("a", "b", "c")), make(tmp_path / "b")
    with pytest.raises(UsageError) as error:
        joined([first, other], tmp_path / "all")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "all/dataset.json").exists() and not (tmp_path / "all/g0001").exists()


def test_places_that_a_manifest_cannot_name_are_refused(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(UsageError, match=r"a: does not lie in the directory of OUT, .*/sub: a join names shards"):
        joined(parts, tmp_path / "sub/all")
    with pytest.raises(UsageError, match="a: does not lie in the directory of OUT"):
        joined(parts, "memory://bucket/all")
    with pytest.raises(UsageError, match="is given twice"):
        joined([parts[0], parts[1], parts[0]], tmp_path / "all")
    with pytest.raises(UsageError, match="lies in OUT"):
        joined(parts, parts[0])
    (tmp_path / "there").mkdir()
    (tmp_path / "there/mine.txt").touch()
    with pytest.raises(UsageError, match=r"there: has files, as mine.txt: give a new directory"):
        joined(parts, tmp_path / "there")
    parts[1].rename(tmp_path / "b;c")
    with pytest.raises(UsageError, match="must be a plain file name"):
        joined([parts[0], tmp_path / "b;c"], tmp_path / "all")


def test_a_killed_join_is_run_again(parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "all"
    (out / "g0001").mkdir(parents=True)
    (out / "g0001/withdrawn-half.npy").write_bytes(b"half")
    (out / "README.md").write_text("half")
    joined(parts, out, workers=2)
    assert not (out / "g0001/withdrawn-half.npy").exists() and len(open_dataset(out)) == 12

    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(joining, "write_papers", fail)
    with pytest.raises(KeyboardInterrupt):
        joined(parts, tmp_path / "other")
    assert not (tmp_path / "other/g0001").exists()


@pytest.mark.slow
def test_table_statistics_and_counts_are_those_of_all(tmp_path: Path) -> None:
    places = []
    for name, classes in (("a", "xy"), ("b", "yw")):
        for number in range(6):
            write_image(tmp_path / f"in-{name}" / classes[number % 2] / f"{name}{number}.png", number + ord(name))
        places.append(prepared(tmp_path / f"in-{name}", tmp_path / name, "--encoding", "png", "--quiet"))
    whole = tmp_path / "in-all"
    for name in "ab":
        shutil.copytree(tmp_path / f"in-{name}", whole, dirs_exist_ok=True)
    once = open_dataset(prepared(whole, tmp_path / "once", "--encoding", "png", "--quiet")).manifest
    manifest = joined(places, tmp_path / "all")
    assert manifest.statistics == once.statistics and manifest.statistics is not None
    assert manifest.class_names == ("x", "y", "w")
    assert manifest.splits["train"].classes == once.splits["train"].classes
    rows = pq.read_table(tmp_path / "all/g0001/metadata.parquet").to_pylist()
    assert [row["label_name"] for row in rows] == [("x", "y", "w")[row["label"]] for row in rows]
    assert [row["id"] for row in rows] == [row["id"] for row in open_dataset(tmp_path / "all")]
    withdraw(str(tmp_path / "all"), ["x/a0.png", "w/b1.png"])
    left = open_dataset(tmp_path / "all").manifest
    assert left.statistics is not None and left.statistics.pixels < manifest.statistics.pixels
    for name in ("inspect", "report", "verify"):
        result = command(name, tmp_path / "all", *(("--output", tmp_path / "r.html") if name == "report" else ()))
        assert result.returncode == 0, result.stdout + result.stderr
    text = (tmp_path / "all/README.md").read_text()
    assert "g0002/metadata.parquet" in text


def test_the_command_says_what_was_joined(parts: list[Path], tmp_path: Path) -> None:
    result = command("join", *parts, tmp_path / "all", "--workers", "1")
    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        f"{tmp_path}/all: 12 records in 4 shards, where they are;"
        " new indexes with other numbers of classes for 2 shards\n"
    )
    alone = command("join", parts[0], tmp_path / "more")
    assert alone.returncode == 2 and "give two datasets or more, and then OUT" in alone.stderr


@pytest.mark.slow
def test_a_join_that_is_killed_at_any_change_is_not_there_or_whole(parts: list[Path], tmp_path: Path) -> None:
    count, places = tmp_path / "count", [str(place) for place in parts]
    words = ["join", *places, tmp_path / "whole", "--workers", "1"]
    number = changes(tmp_path / "whole", words, count, {})
    expected = with_names(open_dataset(tmp_path / "whole"))
    for moment in np.unique(np.linspace(1, number, 5).astype(int)).tolist():
        out = tmp_path / f"killed-{moment}"
        words = ["join", *places, out, "--workers", "1"]
        assert killed_at(moment, out, words, count, {})
        if (out / "dataset.json").exists():
            assert with_names(open_dataset(out)) == expected and problems(out) == []
        else:
            assert not killed_at(0, out, words, count, {})
            assert with_names(open_dataset(out)) == expected and problems(out) == []
