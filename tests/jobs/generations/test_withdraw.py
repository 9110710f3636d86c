"""Records that are withdrawn: neither given nor counted, by the reader and by every command."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.command import command
from support.servers import Store
from support.stored import flip

from beam_jobs.errors import JobError, UsageError
from beam_jobs.generations.withdraw import withdraw
from shard_reader import CorruptionError, Dataset, DatasetError, StateError, open_dataset
from shard_reader.format import Manifest
from shard_reader.format.manifest import generation_manifest

GONE = (0, 7, 8, 47)  # numbers in train: the first, two neighbours, and the last


@pytest.fixture
def shards(raw_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(raw_shards, tmp_path / "shards"))


def ids_of(data: Dataset) -> list[str]:
    return [id.decode() for id in data.ids()]


def ids_at(path: Path, numbers: tuple[int, ...] = GONE, split: str = "train") -> list[str]:
    return [id.decode() for id in open_dataset(path, split).ids(list(numbers))]


def manifest_of(path: Path) -> Manifest:
    return Manifest.from_json((path / "dataset.json").read_text())


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
@pytest.mark.parametrize("shuffle", ["none", "window", "full"])
def test_streams_give_each_of_the_others_once(shards: Path, format: str, shuffle: str) -> None:
    before, gone = open_dataset(shards), ids_at(shards)
    expected = [id for id in ids_of(before) if id not in gone]
    withdraw(str(shards), gone)
    data = open_dataset(shards, format=format)
    assert len(data) == len(expected) == 44
    assert ids_of(data) == expected
    stream = data.stream(batch_size=5, shuffle=shuffle, lanes=2, window=1, fields=["image", "id", "label"])
    given = [
        (id.decode(), image.tobytes(), label)
        for batch in stream
        for id, image, label, weight in zip(*(batch[n] for n in ("id", "image", "label", "weight")), strict=True)
        if weight
    ]
    assert sorted(id for id, _, _ in given) == sorted(expected)
    numbers = {id: number for number, id in enumerate(ids_of(before))}
    for id, image, label in given:
        assert image == before.image(numbers[id]).tobytes()
        assert label == before[numbers[id]]["label"]
    assert stream.coverage() == data.coverage()


def test_subsets_and_copies_are_of_what_remains(shards: Path) -> None:
    gone = ids_at(shards)
    withdraw(str(shards), gone)
    subset = open_dataset(shards).where(label="a").select(range(3))
    assert not set(ids_of(subset)) & set(gone)
    copy = pickle.loads(pickle.dumps(subset))
    assert ids_of(copy) == ids_of(subset)
    assert copy.fingerprint == subset.fingerprint != open_dataset(shards, generation=1).fingerprint


def test_the_first_generation_stays_bit_for_bit(shards: Path) -> None:
    stream = open_dataset(shards).stream(batch_size=8, seed=3)
    expected = [batch["image"].tobytes() for batch in stream]
    state = stream.state_dict()
    files = {path: path.read_bytes() for path in shards.rglob("*") if path.name not in ("dataset.json", "README.md")}
    for number, id in enumerate(ids_at(shards)):
        withdraw(str(shards), [id])
        assert manifest_of(shards).generation == number + 2
    del files[shards / "croissant.json"]
    assert all(path.read_bytes() == data for path, data in files.items())
    data = open_dataset(shards, generation=1)
    again = data.stream(batch_size=8, seed=3)
    assert [batch["image"].tobytes() for batch in again] == expected
    assert again.state_dict() == state
    history = [(one.number, one.made, one.records) for one in data.generations()]
    assert history == [(1, "prepare", 60), *((n, "withdraw", 61 - n) for n in range(2, 6))]


def test_positions_are_of_a_generation(shards: Path) -> None:
    before = open_dataset(shards).stream(batch_size=8)
    next(iter(before))
    withdraw(str(shards), ids_at(shards))
    after = open_dataset(shards).stream(batch_size=8)
    assert after.state_dict()["generation"] == 2
    with pytest.raises(StateError, match=r"is of generation 1, the stream is of generation 2 of split 'train' .* gen"):
        after.load_state_dict(before.state_dict())
    with pytest.raises(StateError, match="is of generation 2, the stream is of generation 1"):
        before.load_state_dict(after.state_dict())
    resumed = open_dataset(shards, generation=1).stream(batch_size=8)
    resumed.load_state_dict(before.state_dict())
    assert resumed.state_dict() == before.state_dict()
    balanced = open_dataset(shards, generation=1).balanced().stream(batch_size=8)
    with pytest.raises(StateError, match="is of generation 1, the stream is of generation 2"):
        open_dataset(shards).balanced().stream(batch_size=8).load_state_dict(balanced.state_dict())
    assert sum(open_dataset(shards).balanced().class_counts.values()) == len(open_dataset(shards))
    with pytest.raises(StateError, match="the state is of another stream"):
        after.load_state_dict(open_dataset(shards, "val").stream(batch_size=9).state_dict())


def test_counts_classes_and_tables_are_of_what_remains(shards: Path) -> None:
    gone = [*ids_at(shards), *ids_at(shards, (3,), "val")]
    withdraw(str(shards), gone)
    manifest = manifest_of(shards)
    assert (manifest.splits["train"].records, manifest.splits["val"].records, manifest.counts.written) == (44, 11, 55)
    for split, found in manifest.splits.items():
        data = open_dataset(shards, split)
        labels = data.column("label")
        assert found.classes == {name: int((labels == n).sum()) for n, name in enumerate("abc")}
    (name,) = manifest.lists("metadata.parquet")
    table = pq.read_table(shards / name).to_pydict()
    assert table["id"] == [id for split in ("train", "val") for id in ids_of(open_dataset(shards, split))]
    assert "44" in (shards / "README.md").read_text()
    assert (
        name in json.loads((shards / "croissant.json").read_text())["distribution"][-9]["@id"]
        or name in (shards / "croissant.json").read_text()
    )


def test_every_command_leaves_them_out(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "gone.txt").write_text("\n".join(gone := ids_at(shards)))
    result = command("withdraw", shards, tmp_path / "gone.txt")
    assert result.stdout.startswith(f"{shards}: generation 2: 4 records withdrawn, 56 remain\n")
    verified = command("verify", shards, "--decode")
    assert (verified.returncode, "whole; 56 records" in verified.stdout) == (0, True), verified.stdout
    shown = command("inspect", shards).stdout
    assert "  2          withdraw: 56 records" in shown
    assert json.loads(command("inspect", shards, "--json").stdout)["generations"][1]["records"] == 56
    assert command("export", shards, tmp_path / "out", "--to", "folder").returncode == 0
    exported = "".join(path.read_text() for path in (tmp_path / "out").rglob("*.jsonl"))
    assert len(exported.splitlines()) == 56
    assert not any(id in exported for id in gone)
    assert command("report", shards, "--output", tmp_path / "report.html").returncode == 0
    assert not any(id in (tmp_path / "report.html").read_text() for id in gone)


def test_a_whole_shard_may_go(shards: Path) -> None:
    withdraw(str(shards), ids_at(shards, tuple(range(16, 32))))
    data = open_dataset(shards)
    assert len(data) == 32
    for shuffle in ("window", "full"):
        stream = data.stream(batch_size=4, shuffle=shuffle, fields=["id"])
        assert len({id for batch in stream for id in batch["id"]}) == 32
    assert command("verify", shards).returncode == 0
    assert command("inspect", shards).returncode == 0


def test_all_of_a_split_may_go(shards: Path) -> None:
    withdraw(str(shards), ids_at(shards, tuple(range(12)), "val"))
    data = open_dataset(shards, "val")
    assert (len(data), list(data.stream(batch_size=4, fields=["id"]))) == (0, [])
    assert command("verify", shards).returncode == 0


def test_ids_that_no_record_has_are_named_unless_they_are_ignored(shards: Path) -> None:
    known, text = ids_at(shards), (shards / "dataset.json").read_text()
    with pytest.raises(UsageError, match=r"4 ids that no record has: x0, x1, x2, \.\.\.; .*--ignore-unknown"):
        withdraw(str(shards), [*known, "x0", "x1", "x2", "x3"])
    assert (shards / "dataset.json").read_text() == text
    found = withdraw(str(shards), [*known, "x0"], ignore_unknown=True)
    assert (found.withdrawn, found.earlier, found.unknown) == (4, 0, 1)
    again = withdraw(str(shards), known)
    assert (again.withdrawn, again.earlier, again.manifest.generation) == (0, 4, 2)


@pytest.mark.parametrize("damage", ["flip", "short", "missing", "folder"])
def test_a_damaged_list_of_withdrawn_records_is_one_line(shards: Path, damage: str) -> None:
    withdraw(str(shards), ids_at(shards))
    path = shards / "g0002" / "withdrawn-train.npy"
    if damage == "flip":
        flip(path, 130)
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
    with pytest.raises((CorruptionError, OSError), match=r"withdrawn-train\.npy"):
        open_dataset(shards)
    for words in (["verify"], ["inspect"]):
        result = command(*words, shards)
        assert "Traceback" not in result.stderr
        assert "withdrawn-train.npy" in result.stderr + result.stdout
    assert len(open_dataset(shards, "val")) == 12


def test_an_earlier_manifest_that_was_changed_is_refused(shards: Path) -> None:
    withdraw(str(shards), ids_at(shards))
    path = shards / generation_manifest(1)
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 9}))
    with pytest.raises(DatasetError, match=r"dataset\.g0001\.json: is not the manifest that dataset\.json names"):
        open_dataset(shards, generation=1)
    path.unlink()
    with pytest.raises(DatasetError, match=r"dataset\.g0001\.json: is missing"):
        open_dataset(shards, generation=1)
    with pytest.raises(ValueError, match=r"generation=3: .* has the generations 1 \(prepare\), 2 \(withdraw\)"):
        open_dataset(shards, generation=3)


def test_a_dataset_that_is_held_is_not_changed(shards: Path) -> None:
    from beam_jobs.generations.growth import grown

    with grown(str(shards)), pytest.raises(UsageError, match="another job is writing there"):
        withdraw(str(shards), ids_at(shards))
    assert manifest_of(shards).generation == 1


def test_files_of_its_user_stay_whatever_their_names(shards: Path, tmp_path: Path) -> None:
    (shards / "g2024").mkdir()
    (shards / "g2024/photos.zip").write_bytes(b"mine")
    (shards / "g0002").write_bytes(b"mine")
    (tmp_path / "linked").mkdir()
    (shards / "g0004").symlink_to(tmp_path / "linked")
    (shards / "g0003").mkdir()  # of a command that was killed
    (shards / "g0003/withdrawn-train.npy").touch()
    (shards / "g0003/tmp1234").mkdir()
    withdraw(str(shards), ids_at(shards))
    assert manifest_of(shards).history[-1].folder == "g0003"
    assert not (shards / "g0003/tmp1234").exists()
    assert (shards / "g2024/photos.zip").read_bytes() == (shards / "g0002").read_bytes() == b"mine"
    assert (shards / "g0004").is_symlink()


def test_a_manifest_that_no_reader_would_read_is_not_published(shards: Path) -> None:
    from beam_jobs.generations.growth import grown

    before = (shards / "dataset.json").read_bytes()
    with grown(str(shards)) as growth, pytest.raises(JobError, match="next generation could not be read"):
        growth.publish(replace(growth.manifest, formats=()), "withdraw", "g0002")
    assert (shards / "dataset.json").read_bytes() == before


def test_a_dataset_on_a_web_server_is_not_changed(shards: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(shards))) as server:
        Thread(target=server.serve_forever).start()
        with pytest.raises(UsageError, match="is on a web server, which takes no files"):
            withdraw(f"http://127.0.0.1:{server.server_port}", ids_at(shards))
        server.shutdown()


def test_it_works_in_stores(shards: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.use(monkeypatch)
    url, gone = store.copy(shards, "shards"), ids_at(shards)
    found = withdraw(url, gone)
    assert found.manifest.generation == 2
    for options in ({}, {"cache": shards.parent / "cache"}):
        data = open_dataset(url, **options)  # type: ignore[arg-type]
        assert sorted(ids_of(data)) == sorted(set(ids_of(open_dataset(shards))) - set(gone))
        assert [one.number for one in data.generations()] == [1, 2]
        data.close()
    assert len(open_dataset(url, generation=1)) == 48


def test_a_dataset_without_tables_is_withdrawn_from_by_its_shards(shards: Path) -> None:
    body = json.loads((shards / "dataset.json").read_text())
    del body["files"]["metadata.parquet"]
    (shards / "dataset.json").write_text(with_own_checksum(body))
    gone = ids_at(shards)
    withdraw(str(shards), gone)
    assert not set(ids_of(open_dataset(shards))) & set(gone)
    assert manifest_of(shards).lists("metadata.parquet") == ()


def with_own_checksum(body: dict[str, object]) -> str:
    from shard_reader.format.manifest import with_checksum

    return with_checksum(body)


def test_numbers_are_checked_against_the_shards(shards: Path) -> None:
    from shard_reader.format.shard_table import withdrawn_from_bytes, withdrawn_to_bytes

    table = manifest_of(shards).splits["train"].shards
    for wrong in ([3, 2], [4, 4], [48], [2**63 - 1]):
        data = withdrawn_to_bytes(np.array(wrong, np.int64))
        import hashlib

        with pytest.raises(ValueError, match="numbers that do not rise, or are not below 48"):
            withdrawn_from_bytes(data, len(wrong), table, hashlib.sha256(data).hexdigest())
