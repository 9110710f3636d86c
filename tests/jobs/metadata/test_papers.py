"""The papers of a dataset, as the command writes them: their contents, and the files that its user edited."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.command import command, prepared
from support.images import write_image

from beam_jobs.metadata import papers
from shard_reader import open_dataset
from shard_reader.format.manifest import with_checksum

NEW = {"README.md", "croissant.json", "metadata.parquet", "card-1.jpg", "card-2.jpg", "card-3.jpg"}
OPTIONS = "--size 16 --split train=0.8,val=0.2 --workers 1"


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_every_dataset_has_papers(jpeg_shards: Path) -> None:
    assert set(contents(jpeg_shards)) >= NEW
    manifest = open_dataset(jpeg_shards).manifest
    # Those that people edit are not in the manifest.
    assert NEW - set(manifest.files) == {"README.md", "croissant.json"}
    result = command("verify", jpeg_shards)
    assert result.returncode == 0 and "does not know" not in result.stdout


def test_the_table_has_the_fields_of_every_record(jpeg_shards: Path, raw_shards: Path) -> None:
    for path in (jpeg_shards, raw_shards):
        rows = pq.read_table(path / "metadata.parquet").to_pylist()
        manifest = open_dataset(path).manifest
        position = 0
        for split in manifest.splits:
            data = open_dataset(path, split)
            for number in range(len(data)):
                row, record = rows[position], data[number]
                assert (row["id"], row["split"], row["label"]) == (record["id"], split, record["label"])
                assert row["label_name"] == data.class_names[record["label"]]
                assert (row["height"], row["width"]) == record["image"].shape[:2]
                assert set(row) == {*data.fields, "split", "label_name"} - {"image"}
                position += 1
        assert position == len(rows)


@pytest.mark.slow
def test_strings_lists_and_names_that_are_taken(tmp_path: Path) -> None:
    lines = []
    for number in range(6):
        write_image(tmp_path / f"{number}.png", number)
        row = {"path": f"{number}.png", "label": [["a", "b"], ["b"], []][number % 3], "split": f"part{number % 2}"}
        row |= {"label_name": f"text {number}", "size": 0.5 * number, "tags": ["x"] * number, "pair": [number, 7]}
        lines.append(json.dumps(row | {"metadata.parquet": "ü", "records/id": number}))
    (tmp_path / "table.jsonl").write_text("\n".join(lines))
    options = "--size 16 --split-column split --shards 1 --workers 1 --max-rejects 6"
    path = prepared(tmp_path / "table.jsonl", tmp_path / "out", *options.split())
    rows = {row["id"]: row for row in pq.read_table(path / "metadata.parquet").to_pylist()}
    assert len(rows) == 6
    for id, row in rows.items():
        number = int(id.partition(".")[0])
        assert row["split"] == f"part{number % 2}"
        assert row["label_name"] == f"text {number}" and row["label_name_"] == [["a", "b"], ["b"], []][number % 3]
        assert (row["tags"], row["pair"], row["size"]) == (["x"] * number, [number, 7], 0.5 * number)
        assert (row["metadata.parquet"], row["records/id"]) == ("ü", number)


@pytest.mark.slow
def test_the_pictures_are_sheets_of_the_images(jpeg_shards: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with Image.open(jpeg_shards / f"card-{number}.jpg") as picture:
            assert picture.format == "JPEG" and picture.size == (4 * 168 + 8, 2 * 168 + 8)
    write_image(tmp_path / "in/a.png")
    few = prepared(tmp_path / "in", tmp_path / "few", "--size", 16, "--workers", 1)
    assert [name for name in sorted(contents(few)) if name.startswith("card")] == ["card-1.jpg"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    ["--dtype float32 --normalize imagenet", "--dtype uint16", "--channels grey", "--channels keep --encoding png"],
)
def test_pictures_of_any_pixels(class_folders: Path, tmp_path: Path, options: str) -> None:
    path = prepared(class_folders, tmp_path / "out", "--size", 16, "--workers", 1, *options.split())
    with Image.open(path / "card-1.jpg") as picture:
        low, high = picture.convert("L").getextrema()
    assert low < 100 and high > 200


@pytest.mark.slow
def test_papers_are_the_same_for_any_number_of_workers(class_folders: Path, tmp_path: Path) -> None:
    words = [*["--size", "16", "--split", "train=0.8,val=0.2", "--shards", "3", "--dali-index", "--name", "Pets"]]
    one = contents(prepared(class_folders, tmp_path / "1/out", *words, "--workers", 1))
    two = contents(prepared(class_folders, tmp_path / "2/out", *words, "--workers", 2))
    assert set(one) == set(two)
    different = {name for name in one if one[name] != two[name]}
    assert different <= {"dataset.json", "croissant.json"}  # the manifest names the workers
    assert sum(name.endswith(".idx") for name in one) == 4


@pytest.mark.slow
def test_new_facts_change_the_papers_and_nothing_else(class_folders: Path, tmp_path: Path) -> None:
    path = prepared(class_folders, tmp_path / "out", *OPTIONS.split())
    before = contents(path)
    again = command("prepare", class_folders, path, *OPTIONS.split())
    assert "is finished, nothing to do" in again.stdout and contents(path) == before
    named = command("prepare", class_folders, path, *OPTIONS.split(), "--name", "Pets", "--licence", "MIT")
    assert "README.md and croissant.json are written with the new facts" in named.stdout
    after = contents(path)
    assert {name for name in after if after[name] != before.get(name)} == {"README.md", "croissant.json"}
    assert b"# Pets\n" in after["README.md"] and json.loads(after["croissant.json"])["license"] == "MIT"
    # As if they had been given at first.
    other = prepared(class_folders, tmp_path / "b/out", *OPTIONS.split(), "--name", "Pets", "--licence", "MIT")
    assert contents(other)["README.md"] == after["README.md"]
    # Without facts, nothing is written: those of before stay.
    command("prepare", class_folders, path, *OPTIONS.split())
    assert contents(path) == after


@pytest.mark.slow
def test_papers_of_the_user_stay(class_folders: Path, tmp_path: Path) -> None:
    path = prepared(class_folders, tmp_path / "out", *OPTIONS.split())
    edited = (path / "README.md").read_text("utf-8").replace("## Splits", "## My splits")
    (path / "README.md").write_text(edited, "utf-8")
    (path / "croissant.json").write_text("{}")
    for more in (["--name", "Pets"], ["--overwrite", "--seed", "7"], ["--overwrite", "--name", "Cats"]):
        result = command("prepare", class_folders, path, *OPTIONS.split(), *more)
        assert result.returncode == 0, result.stderr
        for name in ("README.md", "croissant.json"):
            assert f"{path / name}: was edited, or is not of image-shards; left as it is" in result.stderr
        assert (path / "README.md").read_text("utf-8") == edited
        assert (path / "croissant.json").read_text() == "{}"
    (path / "README.md").unlink()
    command("prepare", class_folders, path, *OPTIONS.split(), "--name", "Cats")
    assert "# Cats" in (path / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["README.md", "croissant.json"])
def test_a_new_dataset_has_an_empty_output(class_folders: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("the user's")
    result = command("prepare", class_folders, tmp_path / "out", "--overwrite")
    assert result.returncode == 2 and "is not empty, and holds no dataset" in result.stderr
    assert contents(tmp_path / "out") == {name: b"the user's"}


@pytest.mark.slow
def test_overwrite_removes_papers_and_pictures(class_folders: Path, tmp_path: Path) -> None:
    path = prepared(class_folders, tmp_path / "out", *OPTIONS.split(), "--dali-index", "--name", "Pets")
    write_image(tmp_path / "in/a/1.png")
    prepared(tmp_path / "in", path, "--size", 16, "--format", "hdf5", "--workers", 1, "--overwrite")
    left = set(contents(path))
    assert left >= {"README.md", "croissant.json", "card-1.jpg"}
    assert not {"card-2.jpg", "card-3.jpg"} & left and not [name for name in left if name.endswith(".idx")]
    assert b"Pets" not in contents(path)["README.md"]


def test_a_dataset_of_before_papers_can_have_them(class_folders: Path, tmp_path: Path) -> None:
    """Its table and its pictures are missing, and nothing refers to them."""
    path = prepared(class_folders, tmp_path / "out", *OPTIONS.split())
    body = json.loads((path / "dataset.json").read_text("utf-8"))
    for name in NEW:
        (path / name).unlink()
        body["files"].pop(name, None)
    body.pop("checksum")
    (path / "dataset.json").write_text(with_checksum(body))
    command("prepare", class_folders, path, *OPTIONS.split(), "--name", "Pets")
    text = (path / "README.md").read_text("utf-8")
    assert "card-1.jpg" not in text and "metadata.parquet" not in text
    assert json.loads((path / "croissant.json").read_text("utf-8"))["recordSet"] == []
    assert command("verify", path).returncode == 0


def test_a_file_tells_itself_whether_it_was_edited() -> None:
    made = papers._sealed_page("# A page with zeros: " + "0" * 64)
    assert papers._is_sealed(made)
    assert not papers._is_sealed(made.replace(b"page", b"Page"))
    assert not papers._is_sealed(b"") and not papers._is_sealed(b"0" * 64) and not papers._is_sealed(b"\xff" * 100)
    assert papers._is_sealed(papers._sealed_json({"name": "f" * 64}))


@pytest.mark.parametrize(
    ("place", "name"),
    [("/data/pets", "pets"), ("s3://bucket/pets/", "pets"), ("/data/pets/1.0.0", "pets"), ("1.0.0", "1.0.0")],
)
def test_the_name_of_a_place(place: str, name: str) -> None:
    assert papers.name_of(place) == name


@pytest.mark.slow
def test_a_folder_named_readme_stays(class_folders: Path, tmp_path: Path) -> None:
    path = prepared(class_folders, tmp_path / "out", *OPTIONS.split())
    (path / "README.md").unlink()
    (path / "README.md").mkdir()
    result = command("prepare", class_folders, path, *OPTIONS.split(), "--overwrite")
    assert result.returncode == 0 and "left as it is" in result.stderr and (path / "README.md").is_dir()
    shutil.rmtree(path / "README.md")
