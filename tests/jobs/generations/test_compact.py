"""`image-shards compact`: the records that count, in shards of their own, as one `prepare` over them makes them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import command, prepared
from support.crafted import change_manifest
from support.everything import Everything
from support.generations import GONE, OPTIONS, bytes_of, compacted, images, manifest_of, withdrawn
from support.images import some_of, write_image
from support.killing import changes, killed_at
from support.servers import Store
from support.stored import several

from beam_jobs import PrepareOptions, prepare
from beam_jobs.generations.compaction.compact import CompactOptions
from beam_jobs.generations.compaction.in_place import compact_in_place
from beam_jobs.generations.compaction.removals import read_waiting
from beam_jobs.generations.growth import Growth
from shard_reader import CenterCrop, open_dataset
from shard_reader.errors import StateError
from shard_reader.storage.open import directory

PAPERS = {"README.md", "croissant.json", "dataset.json", "dataset_info.json"}  # with the name of the folder in them


def lines_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def original(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("original") / "out"
    prepared(inputs, output, *OPTIONS, "--format", "tfrecord", "--format", "hdf5", "--dali-index")
    return withdrawn(output, *GONE)


@pytest.fixture
def dataset(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "out"))


@pytest.mark.parametrize(
    "options",
    [("--format", "tfrecord", "--format", "hdf5", "--dali-index"), ("--encoding", "raw", "--format", "hdf5")],
    ids=["png", "raw"],
)
def test_the_files_are_those_of_one_prepare_over_what_remains(
    inputs: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    whole = withdrawn(prepared(inputs, tmp_path / "whole", *OPTIONS, *options), *GONE)
    (tmp_path / "gone.txt").write_text("\n".join(GONE))
    expected = prepared(inputs, tmp_path / "expected", *OPTIONS, *options, "--exclude", tmp_path / "gone.txt")
    compacted(whole, tmp_path / "new")
    found, wanted = bytes_of(tmp_path / "new"), bytes_of(expected)
    assert found.keys() == wanted.keys()
    assert {name for name in found if found[name] != wanted[name]} <= PAPERS
    one, other = manifest_of(tmp_path / "new"), manifest_of(expected)
    assert (one.splits, one.fields, one.class_names) == (other.splits, other.fields, other.class_names)
    assert one.statistics == other.statistics and one.statistics is not None
    counts = (one.counts.planned, one.counts.written, one.counts.rejected, one.counts.duplicates)
    assert counts == (other.counts.planned, other.counts.written, other.counts.rejected, other.counts.duplicates)
    assert one.generation == 1
    assert command("verify", tmp_path / "new").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"segments": "instances", "encoding": "raw"}, {"segments": "polygons"}], ids=str)
def test_further_images_bytes_and_lists_are_the_same(tmp_path: Path, more: dict[str, str]) -> None:
    (tmp_path / "in").mkdir()
    gone = ["1.png", "4.png"]
    options: dict[str, Any] = {
        "shards": 2,
        "workers": 1,
        "size": "32x24",
        "format": ("tfrecord", "hdf5"),
        "encoding": "png",
        **more,
    }
    options["allow_missing"] = "mask"
    for name, exclude in (("whole", None), ("expected", gone)):
        prepare(
            PrepareOptions(
                input=tmp_path / "in", output=tmp_path / name, source=Everything, exclude=exclude, **options
            ),
            quiet=True,
        )
    compacted(withdrawn(tmp_path / "whole", *gone), tmp_path / "new")
    found, wanted = bytes_of(tmp_path / "new"), bytes_of(tmp_path / "expected")
    assert found.keys() == wanted.keys()
    assert {name for name in found if found[name] != wanted[name]} <= PAPERS


@pytest.mark.slow
def test_after_append_and_replace_the_files_are_those_of_one_prepare(inputs: Path, tmp_path: Path) -> None:
    for name in ("more", "all"):
        (tmp_path / name / "cat").mkdir(parents=True)
    for number in range(100, 108):
        write_image(tmp_path / f"more/cat/{number}.png", number)
    write_image(tmp_path / "more/cat/02.png", 200)
    dataset = prepared(inputs, tmp_path / "out", *OPTIONS)
    prepared(tmp_path / "more", dataset, *OPTIONS, "--append", "--replace")
    withdrawn(dataset, *GONE, "cat/103.png")
    shutil.copytree(inputs, tmp_path / "all", dirs_exist_ok=True)
    shutil.copytree(tmp_path / "more", tmp_path / "all", dirs_exist_ok=True)
    for name in (*GONE, "cat/103.png"):
        (tmp_path / "all" / name).unlink()
    expected = prepared(tmp_path / "all", tmp_path / "expected", *OPTIONS)
    compacted(dataset, tmp_path / "new")
    found, wanted = bytes_of(tmp_path / "new"), bytes_of(expected)
    assert found.keys() == wanted.keys()
    # Which images are shown as thumbnails is chosen among all that were prepared together.
    others = PAPERS | {"rejects.jsonl", "thumbnails.jsonl"}
    assert {name for name in found if found[name] != wanted[name]} <= others
    assert manifest_of(tmp_path / "new").statistics == manifest_of(expected).statistics
    rejects = [sorted(line["id"] for line in lines_of(path / "rejects.jsonl")) for path in (tmp_path / "new", expected)]
    assert rejects[0] == rejects[1]


def test_new_labels_are_in_the_records(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("id,label\ncat/02.png,dog\n")
    result = command("relabel", dataset, tmp_path / "table.csv")
    assert result.returncode == 0, result.stderr
    before = {
        bytes(id): data[number]["label"]
        for split in ("train", "val")
        for data in [open_dataset(dataset, split)]
        for number, id in enumerate(data.ids())
    }
    assert before[b"cat/02.png"] == 1
    compacted(dataset, tmp_path / "new")
    after = {
        bytes(id): data[number]["label"]
        for split in ("train", "val")
        for data in [open_dataset(tmp_path / "new", split)]
        for number, id in enumerate(data.ids())
    }
    assert after == before
    assert manifest_of(tmp_path / "new").requires == ()
    assert command("verify", tmp_path / "new").returncode == 0


def test_shards_can_be_cut_otherwise(dataset: Path, tmp_path: Path) -> None:
    compacted(dataset, tmp_path / "new", "--shard-records", "5")
    manifest = manifest_of(tmp_path / "new")
    assert all(records <= 5 for split in manifest.splits.values() for records in split.shards.records)
    assert manifest.options["shards"] == {"by": "records", "value": 5}
    same = command("compact", dataset, tmp_path / "new", "--shard-records", "5")
    assert "nothing to do" in same.stdout
    other = command("compact", dataset, tmp_path / "new")
    assert other.returncode == 2 and "was made differently" in other.stderr


def test_lines_about_withdrawn_records_are_gone_and_others_stay(dataset: Path, tmp_path: Path) -> None:
    manifest = manifest_of(dataset)
    line = {"id": "cat/later.png", "uri": "/in/cat/later.png", "stage": "list", "reason": "duplicate"}
    lines = [{**line, "message": "has the same bytes as cat/01.png"}, {**line, "message": "has a size of cat/01.png.2"}]
    with (dataset / "rejects.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    with (dataset / "suspects.jsonl").open("a") as file:
        for id in ("cat/01.png", "cat/02.png"):
            split = next(s for s in manifest.splits if id.encode() in open_dataset(dataset, s, generation=1).ids())
            file.write(json.dumps({"id": id, "split": split, "message": "odd"}) + "\n")
    compacted(dataset, tmp_path / "new")
    rejects = lines_of(tmp_path / "new/rejects.jsonl")
    assert [reject["id"] for reject in rejects] == ["cat/later.png", "cat/bad.png", "cat/worse.png"] or len(
        rejects
    ) == 3
    assert [reject["message"] for reject in rejects if reject["id"] == "cat/later.png"] == [lines[1]["message"]]
    assert [suspect["id"] for suspect in lines_of(tmp_path / "new/suspects.jsonl")] == ["cat/02.png"]
    counts = manifest_of(tmp_path / "new").counts
    assert (counts.rejected, counts.suspects) == (3, 1)
    text = (tmp_path / "new/thumbnails.jsonl").read_text()
    assert not [id for id in GONE if json.dumps(id) in text]


def test_in_place_replaces_the_shards_and_keeps_what_others_read(dataset: Path) -> None:
    (dataset / "notes.txt").write_text("mine")
    data = open_dataset(dataset, "train")
    before = [data.payload(number).tobytes() for number in range(len(data))]
    ids = data.ids()
    stdout = compacted(dataset, "--in-place")
    assert "as generation 3" in stdout and "may go after" in stdout
    assert [data.payload(number).tobytes() for number in range(len(data))] == before
    assert {one.number: one.is_removed for one in manifest_of(dataset).history} == {1: True, 2: True, 3: False}
    again = open_dataset(dataset, "train")
    assert sorted(again.ids()) == sorted(ids)
    assert (dataset / "train-00000-of-00002.tfrecord").exists()
    assert "nothing to compact" in compacted(dataset, "--in-place")
    assert (dataset / "train-00000-of-00002.tfrecord").exists()
    # A day later.
    (waiting,) = read_waiting(directory(str(dataset)))
    lines = compact_in_place(CompactOptions(place=str(dataset), workers=1), 0, lambda: waiting.after + 1)
    assert any("removed" in line for line in lines)
    names = {path.name for path in dataset.iterdir()}
    assert names == {"README.md", "croissant.json", "dataset.json", "g0003", "notes.txt"}
    assert command("verify", dataset).returncode == 0
    assert [again.payload(number).tobytes() for number in range(len(again))]


def test_earlier_generations_and_positions_in_them_are_refused_by_name(dataset: Path) -> None:
    state = open_dataset(dataset, "train").stream(batch_size=2, image=CenterCrop(8)).state_dict()
    compacted(dataset, "--in-place", "--grace", "0")
    with pytest.raises(ValueError, match="generation=2: `compact` has removed it; the newest is 3"):
        open_dataset(dataset, "train", generation=2)
    stream = open_dataset(dataset, "train").stream(batch_size=2, image=CenterCrop(8))
    with pytest.raises(StateError, match="`compact` has removed the former"):
        stream.load_state_dict(state)


def test_no_other_file_goes(dataset: Path) -> None:
    manifest = json.loads((dataset / "dataset.json").read_text())
    (dataset / "train-00000-of-00002.tfrecord.idx").write_bytes(b"of my own program")
    (dataset / "train-00007-of-00009.tfrecord").write_bytes(b"of another dataset")
    assert "train-00007-of-00009.tfrecord" not in str(manifest)
    compacted(dataset, "--in-place")
    (dataset / "val-00000-of-00001.tfrecord").write_bytes(b"longer or shorter than it was")
    (waiting,) = read_waiting(directory(str(dataset)))
    compact_in_place(CompactOptions(place=str(dataset), workers=1), 0, lambda: waiting.after + 1)
    assert (dataset / "train-00007-of-00009.tfrecord").exists()
    assert (dataset / "val-00000-of-00001.tfrecord").exists()
    assert not (dataset / "train-00000-of-00002.tfrecord").exists()


def test_the_time_of_a_generation_that_never_came_does_not_count(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, day = CompactOptions(place=str(dataset), workers=1), 86_400.0

    def killed(*_: object, **__: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as context:
        context.setattr(Growth, "publish", killed)
        with pytest.raises(InterruptedError):
            compact_in_place(options, day, lambda: 0.0)
    withdrawn(dataset, "cat/02.png")
    compact_in_place(options, day, lambda: 2 * day)
    (waiting,) = read_waiting(directory(str(dataset)))
    assert (waiting.generation, waiting.after) == (4, 3 * day)
    assert (dataset / "train-00000-of-00002.tfrecord").exists()


def test_a_folder_that_is_a_link_is_left(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset / "g0002", tmp_path / "elsewhere")
    names = os.listdir(tmp_path / "elsewhere")
    shutil.rmtree(dataset / "g0002")
    (dataset / "g0002").symlink_to(tmp_path / "elsewhere")
    result = command("compact", dataset, "--in-place", "--grace", "0")
    assert result.returncode == 0 and "in a folder that is a link; left as it is" in result.stderr
    assert os.listdir(tmp_path / "elsewhere") == names


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "KeyError"),
        ('{"format": "image-shards-removals", "version": 1, "waiting": [{"generation": 3, "after": 0}]}', "KeyError"),
        (
            '{"format": "image-shards-removals", "version": 1, "waiting":'
            ' [{"generation": 3, "after": 0, "files": {"../up.tfrecord": 1}}]}',
            "no file of a dataset",
        ),
        ("[" * 10_000, "RecursionError"),
        (
            '{"format": "image-shards-removals", "version": 1, "waiting":'
            ' [{"generation": 3, "after": 0, "files": {"pixels.jsonl": 1e999}}]}',
            "OverflowError",
        ),
        (
            '{"format": "image-shards-removals", "version": 1, "waiting":'
            ' [{"generation": 3, "after": 1e300, "files": {}}]}',
            "no time",
        ),
    ],
    ids=["other", "without-files", "outside", "deep", "size", "time"],
)
def test_a_list_of_removals_from_elsewhere_is_refused(dataset: Path, text: str, why: str) -> None:
    compacted(dataset, "--in-place")
    (dataset / "removals.json").write_text(text)
    result = command("compact", dataset, "--in-place", "--grace", "0")
    assert result.returncode == 1
    assert "removals.json: is no list of files to remove" in result.stderr and why in result.stderr
    assert (dataset / "train-00000-of-00002.tfrecord").exists()


def test_temporary_files_of_a_killed_command_go_and_no_other(dataset: Path) -> None:
    names = [f".{name}.{'0af1' * 8}" for name in ("dataset.json", "removals.json", "README.md", "dataset.g0002.json")]
    mine = [f".mine.json.{'0af1' * 8}", ".dataset.json.0af1"]
    for name in (*names, *mine):
        (dataset / name).touch()
    compacted(dataset, "--in-place")
    assert sorted(path.name for path in dataset.glob(".*")) == sorted(mine)


@pytest.mark.slow
def test_the_facts_of_the_author_stay(inputs: Path, tmp_path: Path) -> None:
    dataset = prepared(inputs, tmp_path / "out", *OPTIONS, "--licence", "mit", "--name", "Pets")
    withdrawn(dataset, *GONE)
    compacted(dataset, tmp_path / "new")
    compacted(dataset, "--in-place", "--grace", "0")
    for place in (tmp_path / "new", dataset, dataset / "g0003"):
        page = (place / "README.md").read_text()
        assert "license: mit" in page and "pretty_name: Pets" in page


def test_a_join_that_did_not_change_is_compacted_in_place(inputs: Path, tmp_path: Path) -> None:
    one, more = prepared(inputs, tmp_path / "one", *OPTIONS), images(tmp_path / "more")
    for path in list(more.glob("*/*")):
        path.rename(path.with_name(f"more-{path.name}"))
    other = prepared(more, tmp_path / "other", *OPTIONS)
    before = [bytes_of(place) for place in (one, other)]
    assert command("join", one, other, tmp_path / "all").returncode == 0
    assert "as generation 2" in compacted(tmp_path / "all", "--in-place", "--grace", "0")
    manifest = manifest_of(tmp_path / "all")
    assert manifest.requires == () and manifest.records == manifest_of(one).records + manifest_of(other).records
    assert command("verify", tmp_path / "all").returncode == 0
    assert [bytes_of(place) for place in (one, other)] == before


def test_options_of_a_crafted_manifest_do_no_harm(dataset: Path, tmp_path: Path) -> None:
    options = {"image": {"fit": {"a": 1}}, "near_distance": 10**30, "near_duplicates": [], "shards": {"by": []}}
    change_manifest(dataset, lambda body: body["options"].update(options))
    compacted(dataset, tmp_path / "new")
    assert manifest_of(tmp_path / "new").records == manifest_of(dataset).records


def test_a_dataset_of_before_without_hashes_is_compacted(tmp_path: Path) -> None:
    before = several(tmp_path / "before", 6, size=(4, 6), encoding="raw")
    assert "content_hash" not in manifest_of(before).fields
    compacted(before, tmp_path / "new")
    assert manifest_of(tmp_path / "new").records == manifest_of(before).records
    assert (tmp_path / "new/duplicates.jsonl").read_bytes() == b""


def test_other_shards_than_before_are_something_to_compact(dataset: Path) -> None:
    words = (dataset, "--in-place", "--shard-records", "5")
    compacted(dataset, "--in-place")
    assert "as generation 4" in compacted(*words)
    assert max(records for split in manifest_of(dataset).splits.values() for records in split.shards.records) <= 5
    assert "nothing to compact" in compacted(*words)


def test_a_dataset_that_never_changed_has_nothing_to_compact(inputs: Path, tmp_path: Path) -> None:
    dataset = prepared(inputs, tmp_path / "out", *OPTIONS)
    before = bytes_of(dataset)
    assert "nothing to compact" in compacted(dataset, "--in-place")
    assert bytes_of(dataset) == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("out",), "give either NEW, a place for the new dataset, or --in-place"),
        (("out", "new", "--in-place"), "give either NEW"),
        (("out", "new", "--grace", "1h"), "--grace: says when replaced files go"),
        (("out", "--in-place", "--grace", "soon"), "expected a time as 24h, 30m, 7d or 0, got 'soon'"),
        (("out", "out/inside"), "lies inside of"),
        (("nothing", "new"), "does not exist"),
        (("out", "new", "--shards", "500"), "the largest split has only"),
    ],
    ids=["neither", "both", "grace", "time", "inside", "missing", "shards"],
)
def test_wrong_words_are_one_line(dataset: Path, words: tuple[str, ...], why: str) -> None:
    places = [str(dataset.parent / word) if not word.startswith("-") and word[0] in "on" else word for word in words]
    result = command("compact", *places)
    assert result.returncode == 2
    assert why in result.stderr and len(result.stderr.splitlines()) <= 2


def test_a_dataset_without_a_record_is_refused(inputs: Path, tmp_path: Path) -> None:
    dataset = prepared(some_of(inputs, tmp_path / "in", 1), tmp_path / "out", "--size", "8")
    ids = [id.decode() for id in open_dataset(dataset, "train").ids()]
    withdrawn(dataset, *ids)
    result = command("compact", dataset, tmp_path / "new")
    assert result.returncode == 2 and "all records are withdrawn" in result.stderr


def test_a_damaged_record_is_not_copied(dataset: Path, tmp_path: Path) -> None:
    path = dataset / "train-00000-of-00002.tfrecord"
    data = bytearray(path.read_bytes())
    row = np.load(dataset / "train-00000-of-00002.tfrecord.index.npy")[3]
    data[int(row["offset"]) + 20] ^= 1
    path.write_bytes(data)
    result = command("compact", dataset, tmp_path / "new")
    assert result.returncode == 1
    assert "train-00000-of-00002.tfrecord: row 3" in result.stderr and "CRC mismatch" in result.stderr
    assert not (tmp_path / "new/dataset.json").exists()


def content(place: object) -> dict[str, list[tuple[bytes, bytes]]]:
    """The ids and the payloads of all records, but their order."""
    found = {}
    for split in ("train", "val"):
        with open_dataset(str(place), split) as data:
            payloads = [data.payload(number).tobytes() for number in range(len(data))]
            found[split] = sorted(zip(map(bytes, data.ids()), payloads, strict=True))
    return found


def kill(place: Callable[[str], object], files: Path, moments: int, environment: Mapping[str, str]) -> None:
    """Kill the command at some of its changes, each time on a new copy of a dataset, and run it again to its end."""

    def words(there: object) -> list[object]:
        return ["compact", there, "--in-place", "--grace", "0", "--workers", "1"]

    undisturbed, count = place("undisturbed"), files / "count"
    expected = content(undisturbed)
    number = changes(undisturbed, words(undisturbed), count, environment)
    names = sorted(file.name for file in directory(str(undisturbed)).walk())
    assert content(undisturbed) == expected
    assert {name for name in names if "/" not in name} == {"README.md", "croissant.json", "dataset.json"}
    shards = {name: directory(str(undisturbed)).sha256(name) for name in names if "-of-" in name}
    for moment in np.unique(np.linspace(1, number, moments).astype(int)).tolist():
        there = place(f"killed-{moment}")
        assert killed_at(moment, there, words(there), count, environment), f"{moment} of {number}"
        assert content(there) == expected, f"{moment} of {number}"
        assert not killed_at(0, there, words(there), count, environment)
        assert content(there) == expected, f"{moment} of {number}"
        assert sorted(file.name for file in directory(str(there)).walk()) == names, f"{moment} of {number}"
        assert {name: directory(str(there)).sha256(name) for name in shards} == shards
        verified = command("verify", there, env={**os.environ, **environment})
        assert verified.returncode == 0, verified.stdout


def copies_of(original: Path, tmp_path: Path) -> Callable[[str], object]:
    return lambda name: shutil.copytree(original, tmp_path / "copies" / name / "out")


@pytest.mark.nightly
def test_killed_at_any_moment_it_leaves_a_whole_state_and_goes_on(original: Path, tmp_path: Path) -> None:
    kill(copies_of(original, tmp_path), tmp_path, 4, {})


@pytest.mark.nightly
def test_killed_at_many_moments(original: Path, tmp_path: Path) -> None:
    kill(copies_of(original, tmp_path), tmp_path, 20, {})


@pytest.mark.nightly
def test_killed_at_many_moments_in_a_store(
    original: Path, tmp_path: Path, new_store: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store("minio")
    store.use(monkeypatch)
    kill(lambda name: store.copy(original, name), tmp_path, 20, store.environment)


@pytest.mark.slow
def test_it_works_in_a_store(
    original: Path, tmp_path: Path, new_store: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store("minio")
    store.use(monkeypatch)
    place = store.copy(original, "out")
    compacted(place, f"{store.url}/new")
    compacted(original, tmp_path / "new")
    for path in (tmp_path / "new").glob("*-of-*"):
        assert directory(f"{store.url}/new").sha256(path.name) == directory(str(path.parent)).sha256(path.name)
    assert "removed" in compacted(place, "--in-place", "--grace", "0")
    (tmp_path / "gone.txt").write_text("\n".join(GONE))
    result = command("verify", place, "--withdrawn", tmp_path / "gone.txt")
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_photos_are_compacted_with_their_bytes(photos: Path, tmp_path: Path) -> None:
    dataset = prepared(some_of(photos, tmp_path / "in", 12), tmp_path / "out", "--size", "64", "--shards", "2")
    data = open_dataset(dataset, "train")
    payloads = dict(zip(data.ids(), [data.payload(number).tobytes() for number in range(len(data))], strict=True))
    gone = data.ids()[3].decode()
    compacted(withdrawn(dataset, gone), tmp_path / "new")
    new = open_dataset(tmp_path / "new", "train")
    del payloads[gone.encode()]
    assert {id: new.payload(number).tobytes() for number, id in enumerate(new.ids())} == payloads
