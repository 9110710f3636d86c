"""benchmarks/dlio: the data for DLIO, the feeds of its plug-in, its rows; with DLIO itself, where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from support.command import REPOSITORY

from shard_reader import CenterCrop, open_dataset
from shard_reader.format.shard_formats.example import decode
from shard_reader.format.shard_formats.tfrecord import read_records

HERE = REPOSITORY / "benchmarks/dlio"


@pytest.fixture(scope="module")
def dlio() -> Iterator[SimpleNamespace]:
    """The modules that need no DLIO."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(HERE), *sys.path])
        names = ("data", "feeds", "rows")
        yield SimpleNamespace(**{name: importlib.import_module(f"dlio_{name}") for name in names})


def arguments(folder: Path, rank: int = 0, ranks: int = 1) -> SimpleNamespace:
    """Those of DLIO that the feeds use, for batches of 8 on each rank."""
    numbers = {"batch_size": 8, "read_threads": 2, "prefetch_size": 2, "seed": 5}
    return SimpleNamespace(data_folder=str(folder), my_rank=rank, comm_size=ranks, **numbers)


def payloads(dataset: Path) -> list[bytes]:
    data = open_dataset(dataset)
    return [data.payload(number).tobytes() for number in range(len(data))]


def test_the_tfrecords_hold_the_stored_bytes_in_files_of_one_length(
    dlio: Any, jpeg_shards: Path, tmp_path: Path
) -> None:
    layout = dlio.data.tfrecords(jpeg_shards, tmp_path, files=4)
    assert (layout.files, layout.records_per_file, layout.subfolders) == (4, 15, 0)
    found = []
    for path in sorted((tmp_path / "train").iterdir()):
        records = [record for _, record in read_records(np.fromfile(path, np.uint8), path.name)]
        assert len(records) == 15
        for record, values in zip(records, map(decode, records), strict=True):
            found.append((record[values["image"][0]].tobytes(), int(values["size"][0])))
    assert found == [(jpeg, len(jpeg)) for jpeg in payloads(jpeg_shards)]
    assert not any((tmp_path / "valid").iterdir())  # DLIO lists it


def test_records_that_make_no_even_files_are_refused(dlio: Any, jpeg_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="60 records: must be a multiple of 8"):
        dlio.data.tfrecords(jpeg_shards, tmp_path)


def test_the_jpegs_hold_the_stored_bytes_in_folders_of_their_classes(
    dlio: Any, jpeg_shards: Path, tmp_path: Path
) -> None:
    layout = dlio.data.jpegs(jpeg_shards, tmp_path)
    assert (layout.files, layout.records_per_file, layout.subfolders) == (60, 1, 3)
    files = sorted((tmp_path / "train").rglob("*.jpeg"), key=lambda path: path.name)
    assert [path.read_bytes() for path in files] == payloads(jpeg_shards)
    assert [int(path.parent.name) for path in files] == open_dataset(jpeg_shards).column("label").tolist()


def test_data_of_an_interrupted_run_are_written_again(dlio: Any, jpeg_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part/half.jpeg").write_bytes(b"half")
    dlio.data.jpegs(jpeg_shards, tmp_path)
    assert len(list(tmp_path.rglob("*.jpeg"))) == 60


def test_dlio_is_told_of_the_dataset_as_its_training_folder(dlio: Any, jpeg_shards: Path, tmp_path: Path) -> None:
    layout = dlio.data.shards(jpeg_shards, tmp_path)
    assert dlio.data.shards(jpeg_shards, tmp_path) == layout
    shards = [name for name in os.listdir(tmp_path / "train") if name.endswith("tfrecord")]  # as DLIO looks for them
    assert len(shards) == layout.files == 2 and layout.records_per_file == 30
    assert f"++workload.dataset.data_folder={tmp_path}" in layout.overrides


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_ranks_of_dlio_share_whole_batches_of_an_epoch(
    dlio: Any, jpeg_shards: Path, tmp_path: Path, ranks: int
) -> None:
    dlio.data.shards(jpeg_shards, tmp_path)
    counts = []
    for rank in range(ranks):
        with dlio.feeds.decoded(arguments(tmp_path, rank, ranks), CenterCrop(16)) as stream:
            batches = list(stream)
        assert {batch["image"].shape for batch in batches} == {(8, 16, 16, 3)}
        assert all(batch["weight"].all() for batch in batches)
        counts.append(len(batches))
    assert counts == [60 // (8 * ranks)] * ranks


def test_stored_bytes_come_in_the_order_of_the_decoded_images(dlio: Any, jpeg_shards: Path, tmp_path: Path) -> None:
    dlio.data.shards(jpeg_shards, tmp_path)
    both = arguments(tmp_path, rank=1, ranks=2)
    feed, stored = dlio.feeds.Payloads(both), payloads(jpeg_shards)
    assert len(set(stored)) == 60
    with dlio.feeds.decoded(both, CenterCrop(16)) as stream:
        orders = [[stream.order.records_of(epoch, step, step + 1) for step in range(3)] for epoch in range(2)]
    for epoch, order in enumerate(orders):
        assert list(feed.epoch(epoch, list)) == [[stored[number] for number in step] for step in order]


def test_a_loop_that_breaks_off_leaves_no_thread(dlio: Any, jpeg_shards: Path, tmp_path: Path) -> None:
    dlio.data.shards(jpeg_shards, tmp_path)
    before = threading.active_count()
    batches = dlio.feeds.Payloads(arguments(tmp_path)).epoch(0, len)
    assert next(batches) == 8
    batches.close()
    assert threading.active_count() == before


def test_a_damaged_payload_ends_the_run(dlio: Any, jpeg_shards: Path, tmp_path: Path) -> None:
    dlio.data.shards(jpeg_shards, tmp_path)

    def refuse(batch: list[bytes]) -> int:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        list(dlio.feeds.Payloads(arguments(tmp_path)).epoch(0, refuse))


def test_the_table_has_medians_ranges_and_ratios_within_a_round(dlio: Any) -> None:
    def result(utilisation: float, rate: float, others: float = 0.0) -> Any:
        metric = {"train_au_mean_percentage": utilisation, "train_throughput_mean_samples_per_second": rate}
        return dlio.rows.Result.of({"metric": metric, "epochs": 1}, others)

    row = dlio.rows.Row
    rows = (
        row("a", "ours", "shards", loader="m.A"),
        row("b", "peer", "jpegs", against="ours"),
        row("c", "broken", "jpegs"),
    )
    ours, peer = [result(99.04, 900), result(97, 1000), result(98, 1200, 0.52)], [result(50, 450), result(40, 250)]
    assert dlio.rows.table(rows, {"ours": ours, "peer": peer, "broken": []}).splitlines()[2:] == [
        "| a | 98.0 (97.0 to 99.0) | 1,000 (900 to 1,200) |  | 0.0 (0.0 to 0.5) |",
        "| b | 45.0 (40.0 to 50.0) | 350 (250 to 450) | 3.00 (2.00 to 4.00) | 0.0 (0.0 to 0.0) |",
        "| c | not measured | | | |",
    ]


def test_rows_tell_dlio_their_classes_by_modules_that_are_there(dlio: Any) -> None:
    for rows in dlio.rows.WORKLOADS.values():
        assert len({row.key for row in rows}) == len(rows)
        for row in rows:
            assert hasattr(dlio.data, row.data)
            assert row.against is None or row.against in {other.key for other in rows if other.loader}
            if row.plugged_in:
                path = row.loader or row.reader
                assert f"class {row.plugged_in}(" in (HERE / f"{path.split('.')[0]}.py").read_text()
                assert any(option.endswith(f"_classname={path}") for option in row.overrides)


@pytest.mark.parametrize("name", ["resnet50_tfrecord", "resnet50_jpeg"])
def test_workloads_are_the_step_and_the_batch_of_dlio(dlio: Any, name: str) -> None:
    found = yaml.safe_load((HERE / f"configs/workload/{name}.yaml").read_text())
    assert found["train"] == {"computation_time": dlio.rows.STEPS["h100"], "epochs": 1}
    assert found["reader"]["batch_size"] == 400 and found["workflow"]["checkpoint"] is False
    assert name in dlio.rows.WORKLOADS


def test_an_interpreter_without_dlio_is_named(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "run.py"), str(tmp_path), "--python", "/bin/true"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == (
        "/bin/true has no dlio_benchmark: give an interpreter with benchmarks/requirements-dlio.txt\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("dlio_benchmark") is None, reason="needs benchmarks/requirements-dlio.txt (dlio_benchmark)"
)
@pytest.mark.parametrize(
    ("workload", "loader", "options"),
    [
        ("resnet50_tfrecord", "StoredBytes", ()),
        ("resnet50_tfrecord", "Crops", ()),
        ("resnet50_jpeg", "WholeImages", ("++workload.dataset.num_subfolders_train=0",)),
    ],
    ids=["bytes", "tensorflow", "pytorch"],
)
def test_dlio_takes_every_batch_of_its_epochs_from_the_plug_in(
    dlio: Any, jpeg_shards: Path, tmp_path: Path, workload: str, loader: str, options: tuple[str, ...]
) -> None:
    row = dlio.rows.Row("", "", "shards", loader=f"dlio_loaders.{loader}")
    layout, output = dlio.data.shards(jpeg_shards, tmp_path / "data"), tmp_path / "output"
    command = [sys.executable, "-m", "dlio_benchmark.main", f"--config-dir={HERE / 'configs'}", f"workload={workload}"]
    command += [f"hydra.run.dir={output}", *layout.overrides, *row.overrides, *options]
    command += [f"++workload.checkpoint.checkpoint_folder={output / 'checkpoints'}"]
    command += ["++workload.reader.batch_size=8", "++workload.train.computation_time=0.01", "++workload.train.epochs=2"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, HERE, HERE.parent))),
        "DFTRACER_ENABLE": "0",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"custom data loader class {loader}" in done.stderr
    result = dlio.rows.Result.of(json.loads((output / "summary.json").read_text()), 0.0)
    assert 0 < result.utilisation <= 100 and result.rate > 0
    steps = json.loads((output / "0_output.json").read_text())
    assert [len(steps[epoch]["load"]["block1"]) for epoch in "12"] == [7, 7]
