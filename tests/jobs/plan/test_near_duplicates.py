"""Images that look alike: the search against a comparison of all pairs, and the three ways to act on what it finds."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from support.command import command, prepared
from support.images import write_image
from support.store_jobs import ABOUT_PLACES

from beam_jobs.cli.main import main
from beam_jobs.plan import duplicates, near_duplicates
from beam_jobs.plan.near_duplicates import distance, find_near_duplicates
from shard_reader import open_dataset
from shard_reader.format import Manifest


def clustered(seed: int, count: int) -> NDArray[np.uint64]:
    """Hashes of which many are copies of others with some bits changed; a few are missing, and a few equal."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(1, 1 << 64, (count, 2), dtype=np.uint64)
    for place in range(1, count):
        if rng.random() < 0.6:
            hashes[place] = hashes[rng.integers(place)]
            for column, most in enumerate((12, 16)):
                bits = rng.choice(64, rng.integers(most), replace=False)
                hashes[place, column] ^= np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64), initial=0)
    hashes[rng.random(count) < 0.05] = 0
    return hashes


def by_all_pairs(hashes: NDArray[np.uint64], most: int) -> list[list[int]]:
    """The groups, found by comparing each hash with each."""
    first = list(range(len(hashes)))

    def root(place: int) -> int:
        while first[place] != place:
            place = first[place]
        return place

    for one in range(len(hashes)):
        for other in range(one):
            bits = np.bitwise_count(hashes[one] ^ hashes[other])
            if hashes[one, 0] and hashes[other, 0] and bits[0] <= most and bits[1] <= most + 4:
                low, high = sorted((root(one), root(other)))
                first[high] = low
    groups: dict[int, list[int]] = {}
    for place in range(len(hashes)):
        groups.setdefault(root(place), []).append(place)
    return [group for group in groups.values() if len(group) > 1]


@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 11), st.integers(1, 70))
@settings(max_examples=40, deadline=None)
def test_the_search_finds_what_a_comparison_of_all_pairs_finds(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, most: int, block: int
) -> None:
    hashes = clustered(seed, count)
    blocks = [hashes[start : start + block] for start in range(0, count, block)]
    near = find_near_duplicates(blocks, min(most, 8), tmp_path_factory.mktemp("search"))
    assert [group.tolist() for group in near.groups()] == by_all_pairs(hashes, min(most, 8))
    assert near.crowded == 0


def test_the_largest_distance_is_exact_too(tmp_path: Path) -> None:
    hashes = clustered(1, 80)
    near = find_near_duplicates([hashes], 11, tmp_path)
    assert [group.tolist() for group in near.groups()] == by_all_pairs(hashes, 11)


def test_blocks_of_rows_and_pairs_play_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = clustered(2, 500)
    expected = find_near_duplicates([hashes], 8, tmp_path)
    monkeypatch.setattr(near_duplicates, "_BLOCK", 7)
    monkeypatch.setattr(near_duplicates, "_PAIRS", 5)
    found = find_near_duplicates([hashes], 2, tmp_path)
    monkeypatch.setattr(near_duplicates, "_BLOCK", 1 << 18)
    assert [g.tolist() for g in found.groups()] == [
        g.tolist() for g in find_near_duplicates([hashes], 2, tmp_path).groups()
    ]
    assert len(expected.places) > 100


def test_a_crowd_is_not_compared_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many hashes with one band as a set of forms may have: what is left out is counted."""
    hashes = np.random.default_rng(0).integers(0, 1 << 64, (300, 2), dtype=np.uint64)
    hashes[:, 0] = np.uint64(0x1234567) | hashes[:, 0] << np.uint64(32)
    monkeypatch.setattr(near_duplicates, "_CROWD", 100)
    near = find_near_duplicates([hashes], 0, tmp_path)
    assert near.crowded == sum(max(0, 299 - row - 100) for row in range(300))
    (line,) = duplicates.crowd_lines(near, str)
    assert "19,900 pairs of similar hashes were not compared" in line


def test_a_distance_counts_bits_of_signed_numbers() -> None:
    assert distance(-1, 0) == 64
    assert distance(-(1 << 63), 1) == 2


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 photos in two classes; 10 have a larger copy, 4 a copy under the other class, 2 the same bytes."""
    folder = tmp_path_factory.mktemp("alike")
    for number in range(40):
        path = folder / "ab"[number % 2] / f"{number:02d}.png"
        draw(path, number, 48)
        if number < 10:
            draw(path.with_name(f"{number:02d} large.png"), number, 96)
        if 10 <= number < 14:
            draw(folder / "ba"[number % 2] / f"{number:02d} other.png", number, 40)
        if 14 <= number < 16:
            shutil.copy(path, path.with_name(f"{number:02d} same.png"))
    return folder


def draw(path: Path, seed: int, side: int) -> None:
    """A smooth picture that is the same for a seed, at any size."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize((side, side), Image.Resampling.BICUBIC).save(path)


def number_of(id: str) -> str:
    return Path(id).name[:2]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def manifest_of(folder: Path) -> Manifest:
    return Manifest.from_json((folder / "dataset.json").read_text())


def ids(folder: Path, splits: Iterable[str]) -> dict[str, str]:
    """The split of each id."""
    found = {}
    for split in splits:
        data = open_dataset(folder, split)
        found |= {id.decode(): split for id in data.ids(np.arange(len(data)))}
    return found


GROUP = ("--near-duplicates", "group", "--split", "a=0.5,b=0.5")
OPTIONS = ("--size", 32, "--split", "train=0.5,val=0.5", "--encoding", "png")


def test_near_duplicates_are_listed_and_counted(alike: Path, tmp_path: Path) -> None:
    result = command("prepare", alike, tmp_path / "out", *OPTIONS, "--near-duplicates", "report", "--format", "hdf5")
    assert result.returncode == 0, result.stderr
    found, counts, splits = lines(tmp_path / "out/duplicates.jsonl"), manifest_of(tmp_path / "out").counts, {}
    splits = ids(tmp_path / "out", ("train", "val"))
    near = [line for line in found if line["near"]]
    assert all(
        number_of(line["id"]) == number_of(line["first_id"]) and line["id"] != line["first_id"] for line in found
    )
    assert sorted(number_of(line["id"]) for line in near) == [f"{number:02d}" for number in range(14)]
    assert [line["distance"] for line in found if not line["near"]] == [0, 0]
    for line in near:
        assert 0 <= line["distance"] <= 8
        assert (line["split"], line["first_split"]) == (splits[line["id"]], splits[line["first_id"]])
        assert line["leak"] == (line["split"] != line["first_split"])
        assert line["contradiction"] == (10 <= int(number_of(line["id"])) < 14)
    assert (counts.near_duplicates, counts.near_contradictions, counts.duplicates) == (14, 4, 2)
    assert counts.near_leaks == sum(line["leak"] for line in near) > 0
    said = f"look alike 14 like another, {counts.near_leaks} of them across splits, 4 under another label, listed in"
    assert said in result.stdout and "--near-duplicates group keeps each group in one split" in result.stdout


def test_without_the_option_none_is_looked_for(alike: Path, tmp_path: Path) -> None:
    out = prepared(alike, tmp_path / "out", *OPTIONS)
    assert [line["near"] for line in lines(out / "duplicates.jsonl")] == [False, False]
    data = open_dataset(out, "train")
    every = np.arange(len(data))
    assert np.all(data.column("phash", every) != 0) and len(set(data.column("phash", every).tolist())) > 10
    assert "phash" not in data[0]


def test_drop_keeps_the_largest_of_each_group(alike: Path, tmp_path: Path) -> None:
    out = prepared(alike, tmp_path / "out", *OPTIONS, "--near-duplicates", "drop")
    kept, dropped = ids(out, ("train", "val")), lines(out / "rejects.jsonl")
    assert sorted(map(number_of, kept)) == [f"{number:02d}" for number in range(40)]
    assert {Path(id).name for id in kept if int(number_of(id)) < 10} == {f"{n:02d} large.png" for n in range(10)}
    assert all(int(number_of(id)) not in range(10, 14) or "other" not in id for id in kept)
    assert Counter(line["reason"] for line in dropped) == {"near-duplicate": 16}
    for line in dropped:
        kept_id = line["message"].removeprefix("looks like ").removesuffix(", under another label")
        assert kept_id in kept and number_of(kept_id) == number_of(line["id"])
        assert line["message"].endswith("under another label") == (10 <= int(number_of(line["id"])) < 14)
    assert manifest_of(out).counts.near_duplicates == 0


def test_drop_goes_with_drop_duplicates(alike: Path, tmp_path: Path) -> None:
    out = prepared(alike, tmp_path / "out", *OPTIONS, "--near-duplicates", "drop", "--drop-duplicates")
    reasons = Counter(line["reason"] for line in lines(out / "rejects.jsonl"))
    assert reasons == {"near-duplicate": 14, "duplicate": 2}
    assert len(ids(out, ("train", "val"))) == 40


@pytest.mark.slow
def test_group_keeps_each_group_in_one_split(alike: Path, tmp_path: Path) -> None:
    plain = ids(prepared(alike, tmp_path / "plain", *OPTIONS), ("train", "val"))
    out = prepared(alike, tmp_path / "out", *OPTIONS, "--near-duplicates", "group")
    grouped = ids(out, ("train", "val"))
    assert grouped.keys() == plain.keys()
    splits: dict[str, set[str]] = {}
    for id, split in grouped.items():
        splits.setdefault(number_of(id), set()).add(split)
    assert all(len(found) == 1 for found in splits.values())
    assert {split for number, (split,) in splits.items() if int(number) < 16} == {"train", "val"}
    alone = [id for id in plain if int(number_of(id)) >= 16]
    assert [grouped[id] for id in alone] == [plain[id] for id in alone]
    counts = manifest_of(out).counts
    assert (counts.near_duplicates, counts.near_leaks, counts.leaks) == (14, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["drop", "group"])
def test_the_number_of_workers_plays_no_part(alike: Path, tmp_path: Path, how: str) -> None:
    one, two = (
        prepared(alike, tmp_path / str(workers), *OPTIONS, "--near-duplicates", how, "--workers", workers)
        for workers in (1, 2)
    )
    for path in one.glob("*.*"):
        if path.name not in ABOUT_PLACES:
            assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_a_group_that_is_too_large_is_named_and_left_alone(
    alike: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "MOST_IN_GROUP", 1)
    out = tmp_path / "out"
    assert (
        main(["prepare", str(alike), str(out), *map(str, OPTIONS), "--near-duplicates", "report", "--workers", "1"])
        == 0
    )
    warned = [line for line in manifest_of(out).warnings if "look alike" in line]
    assert len(warned) == 16 and "more than 1 are neither listed nor moved nor dropped" in warned[0]
    assert not [line for line in lines(out / "duplicates.jsonl") if line["near"]]


@pytest.mark.slow
def test_damaged_inputs_of_the_pre_pass_are_rejects(alike: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(alike, tmp_path / "in"))
    write_image(folder / "a/cut.png", 7, (60, 60))
    data = (folder / "a/cut.png").read_bytes()
    (folder / "a/cut.png").write_bytes(data[: len(data) // 2])
    (folder / "b/empty.png").write_bytes(b"")
    options = (*OPTIONS, "--near-duplicates", "group", "--max-rejects", 2)
    out = prepared(folder, tmp_path / "out", *options)
    assert {line["id"] for line in lines(out / "rejects.jsonl")} == {"a/cut.png", "b/empty.png"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--near-duplicates", "keep"], "--near-duplicates"),
        (["--near-distance", "3"], "--near-distance 3: is for --near-duplicates; give that, too, as report"),
        (["--near-duplicates", "report", "--near-distance", "12"], "--near-distance"),
        (["--near-duplicates", "group"], "--near-duplicates group: says how to split; give --split"),
        ([*GROUP, "--stratify"], "does not go with --stratify"),
        ([*GROUP, "--group-by", "folder"], "does not go with --group-by"),
    ],
)
def test_options_that_do_not_fit_are_refused(alike: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = command("prepare", alike, tmp_path / "out", *options)
    assert result.returncode == 2 and message in result.stderr
    assert not (tmp_path / "out").exists()
