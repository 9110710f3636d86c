"""Classes, normalization and duplicates of what `prepare --append` adds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.grown import SPLIT, added, folder, image, made, records, table

from beam_jobs import PrepareOptions, prepare
from beam_jobs.errors import JobError, UsageError
from beam_jobs.images.measures.perceptual_hash import perceptual_hashes
from shard_reader import open_dataset


def coco(path: Path, categories: dict[int, str], numbers: range) -> Path:
    """Images with a box each, whose category is that of their number."""
    things = []
    for number in numbers:
        image(path / f"{number}.png", number)
        category = [*categories][number % len(categories)]
        things.append({"id": number, "image_id": number, "category_id": category, "bbox": [1, 1, 4, 5]})
    body = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 8, "width": 8} for n in numbers],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
        "annotations": things,
    }
    (path / "instances.json").write_text(json.dumps(body))
    return path / "instances.json"


def test_objects_keep_their_classes_by_name(tmp_path: Path) -> None:
    made(coco(tmp_path / "in", {5: "cat", 9: "dog"}, range(4)), tmp_path / "out")
    result = added(coco(tmp_path / "more", {1: "dog", 2: "bird", 3: "cat"}, range(4, 10)), tmp_path / "out")
    names = result.manifest.class_names
    assert names == ("cat", "dog", "bird")
    found = {id: names[one["objects/label"][0]] for id, one in records(open_dataset(tmp_path / "out")).items()}
    assert [found[f"{number}.png"] for number in range(10)] == [*["cat", "dog"] * 2, *["bird", "cat", "dog"] * 2]
    assert result.manifest.splits["train"].classes == {"cat": 4, "dog": 4, "bird": 2}


def test_classes_given_again_have_to_be_those_and_new_ones(tmp_path: Path) -> None:
    made(folder(tmp_path / "in", "ba", range(4)), tmp_path / "out", classes=["b", "a"])
    more = folder(tmp_path / "more", "bc", range(4, 8))
    with pytest.raises(JobError, match="unknown-class"):
        added(more, tmp_path / "out")
    with pytest.raises(UsageError, match="--classes: class 0 of the dataset is 'b'; give its 2 names first"):
        added(more, tmp_path / "out", classes=["a", "b", "c"])
    assert added(more, tmp_path / "out", classes=["b", "a", "c"]).manifest.class_names == ("b", "a", "c")


@pytest.mark.slow
def test_pixels_are_normalized_as_those_of_the_first_generation(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "ab", range(6))
    made(source, tmp_path / "out", normalize="dataset", encoding="raw", dtype="float32")
    first = open_dataset(tmp_path / "out").manifest.statistics
    added(folder(tmp_path / "more", "ab", range(6, 10)), tmp_path / "out")
    assert open_dataset(tmp_path / "out").manifest.statistics != first
    # The same image as a new one: its pixels are those of the old record.
    shutil.copy(source / "a/0.png", tmp_path / "more/a/copy.png")
    added(tmp_path / "more", tmp_path / "out")
    found = records(open_dataset(tmp_path / "out"))
    assert np.array_equal(found["a/copy.png"]["image"], found["a/0.png"]["image"])


def duplicates(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "duplicates.jsonl").read_bytes().splitlines()]


def test_duplicates_are_looked_for_in_all_generations(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "ab", range(6))
    made(source, tmp_path / "out", split=SPLIT)
    for number in range(4):
        target = tmp_path / "more" / "ab"[number % 2 ^ (number == 3)] / f"copy-{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "ab"[number % 2] / f"{number}.png", target)
    result = added(tmp_path / "more", tmp_path / "out")
    lines = {line["id"]: line for line in duplicates(tmp_path / "out/g0002")}
    assert {id: one["first_id"] for id, one in lines.items()} == {
        "a/copy-0.png": "a/0.png",
        "b/copy-1.png": "b/1.png",
        "a/copy-2.png": "a/2.png",
        "a/copy-3.png": "b/3.png",
    }
    assert [id for id, one in lines.items() if one["contradiction"]] == ["a/copy-3.png"]
    counts = result.manifest.counts
    assert (counts.duplicates, counts.leaks) == (4, sum(one["leak"] for one in lines.values()))


def test_duplicates_of_old_records_are_dropped(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", "ab", range(6))
    made(source, tmp_path / "out", drop_duplicates=True, duplicate_labels="first")
    more = folder(tmp_path / "more", "ab", range(6, 8))
    for name in ("a/copy.png", "b/copy.png"):
        shutil.copy(source / "a/0.png", more / name)
    added(more, tmp_path / "out")
    assert sorted(records(open_dataset(tmp_path / "out"))) == sorted(f"{'ab'[n % 2]}/{n}.png" for n in range(8))
    rejects = [json.loads(line) for line in (tmp_path / "out/g0002/rejects.jsonl").read_bytes().splitlines()]
    assert {one["id"]: one["message"] for one in rejects} == {
        "a/copy.png": "has the same bytes as a/0.png",
        "b/copy.png": "has the same bytes as a/0.png, under another label",
    }


def test_an_image_that_looks_like_an_old_one_goes_to_its_split(photos: Path, tmp_path: Path) -> None:
    source, more = tmp_path / "in", tmp_path / "more"
    source.mkdir(), more.mkdir()
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))[:16]):
        with Image.open(path) as picture:
            small = picture.convert("RGB").resize((96, 96))
        small.save(source / f"{number}.png")
        small.resize((80, 80)).save(more / f"like-{number}.png")
    words = {"fit": "stretch", "size": 32, "near_duplicates": "group"}
    made(source, tmp_path / "out", split={"train": 0.5, "val": 0.5}, **words)
    result = added(more, tmp_path / "out")
    for split in ("train", "val"):
        ids = {id.removeprefix("like-") for id in records(open_dataset(tmp_path / "out", split))}
        assert 2 * len(ids) == result.manifest.splits[split].records > 0
    assert result.manifest.counts.near_duplicates == 16 and result.manifest.counts.near_leaks == 0


def test_splits_of_the_inputs_have_to_be_there(tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder(tmp_path / "in" / split, "ab", range(4) if split == "val" else range(4, 9))
    made(tmp_path / "in", tmp_path / "out")
    folder(tmp_path / "test/test", "ab", range(10, 12))
    folder(tmp_path / "test/train", "ab", range(12, 14))
    with pytest.raises(UsageError, match="the split test is not there, which has train, val"):
        added(tmp_path / "test", tmp_path / "out")
    with pytest.raises(UsageError, match=r"images have splits of their own there \(train, val\), and none here"):
        added(folder(tmp_path / "flat", "ab", range(14, 16)), tmp_path / "out")
    folder(tmp_path / "more/val", "ab", range(16, 19))
    folder(tmp_path / "more/train", "ab", range(19, 20))
    result = added(tmp_path / "more", tmp_path / "out")
    assert {name: split.records for name, split in result.manifest.splits.items()} == {"train": 6, "val": 7}


def test_groups_of_old_records_stay_together(tmp_path: Path) -> None:
    words = {"split": {"train": 0.5, "val": 0.5}, "group_by": "person"}
    rows = {f"{number}.png": ("a", number % 6) for number in range(24)}
    header = "path,label,person"
    made(table(tmp_path / "in", dict(list(rows.items())[:12]), header), tmp_path / "out", **words)
    added(table(tmp_path / "more", dict(list(rows.items())[12:]), header), tmp_path / "out")
    splits = [set(open_dataset(tmp_path / "out", name).column("person").tolist()) for name in ("train", "val")]
    assert splits[0] and splits[1] and not splits[0] & splits[1]


def test_a_dataset_in_memory_grows_without_worker_processes(tmp_path: Path) -> None:
    place = f"memory://{tmp_path.name}/out"
    first, more = folder(tmp_path / "in", "ab", range(4)), folder(tmp_path / "more", "ab", range(4, 7))
    prepare(PrepareOptions(input=first, output=place, fit="none", encoding="png"), quiet=True)
    result = prepare(PrepareOptions(input=more, output=place, append=True), quiet=True)
    assert (result.manifest.generation, result.manifest.records) == (2, 7)


def links(seed: int) -> list[np.ndarray[Any, Any]]:
    """Images of two records that do not look alike, and one between them, which looks like both."""
    rng = np.random.default_rng(seed)
    coarse = [np.kron(rng.uniform(60, 190, (16, 16)), np.ones((4, 4))) for _ in range(2)]
    mixed = [coarse[0] + part * (coarse[1] - coarse[0]) for part in np.linspace(0, 1, 81)]
    pictures = [np.repeat(one.astype(np.uint8)[..., None], 3, 2) for one in mixed]
    hashes = [perceptual_hashes(one) for one in pictures]

    def are_near(one: int, other: int) -> bool:
        bits = [(a ^ b) & (1 << 64) - 1 for a, b in zip(hashes[one], hashes[other], strict=True)]
        return bits[0].bit_count() <= 8 and bits[1].bit_count() <= 12

    end = next(number for number in range(81) if not are_near(0, number))
    between = next(number for number in range(end) if are_near(0, number) and are_near(number, end))
    return [pictures[number] for number in (0, end, between)]


def test_an_image_that_links_old_ones_in_two_splits_moves_nothing_and_is_a_leak(tmp_path: Path) -> None:
    for number in range(8):
        one, other, between = links(number)
        for name, pixels in (("in/a", one), ("in/b", other), ("more/c", between)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / f"{name}{number}.png")
    words = {"near_duplicates": "group", "split": {"train": 0.5, "val": 0.5}}
    made(tmp_path / "in", tmp_path / "out", **words)
    before = {split: set(records(open_dataset(tmp_path / "out", split))) for split in ("train", "val")}
    apart = {n for n in range(8) if (f"a{n}.png" in before["train"]) != (f"b{n}.png" in before["train"])}
    assert apart
    result = added(tmp_path / "more", tmp_path / "out")
    after = {split: set(records(open_dataset(tmp_path / "out", split))) for split in ("train", "val")}
    assert all(before[split] == {id for id in after[split] if id[0] != "c"} for split in after)
    assert result.manifest.counts.near_leaks >= len(apart)
    lines = [json.loads(line) for line in (tmp_path / "out/g0002/duplicates.jsonl").read_bytes().splitlines()]
    assert {int(line["id"][1]) for line in lines if line["leak"] and line["near"]} >= apart
    for number in set(range(8)) - apart:
        assert (f"c{number}.png" in after["train"]) == (f"a{number}.png" in after["train"])


def test_an_image_that_looks_like_an_old_one_is_dropped(tmp_path: Path) -> None:
    one, _, between = links(0)
    for name, pixels in (("in/a", one), ("more/c", between)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    image(tmp_path / "more/other.png", 5)
    made(tmp_path / "in", tmp_path / "out", near_duplicates="drop", shards=1)
    added(tmp_path / "more", tmp_path / "out", max_rejects=1)
    assert set(records(open_dataset(tmp_path / "out"))) == {"a.png", "other.png"}
    (reject,) = (tmp_path / "out/g0002/rejects.jsonl").read_bytes().splitlines()
    assert json.loads(reject)["message"] == "looks like a.png"
