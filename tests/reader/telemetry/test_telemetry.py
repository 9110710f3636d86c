"""What loops wait for, as numbers in the loggers of trainings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shard_reader import Stats, Stream, open_dataset
from shard_reader.telemetry import StatsLogger, numbers

NAMES = [
    "waited", "records_per_second", "busy", "read", "decode", "transform", "page_waits", "stalled",
    "fetched_bytes_per_second",
]  # fmt: skip


class Given:
    """A stream whose stats a test sets."""

    def __init__(self) -> None:
        self.now = Stats()

    def stats(self) -> Stats:
        return self.now

    def work(self, seconds: float) -> None:
        """A batch of 50 records, for which the loop waited a tenth of its time."""
        self.now += Stats(batches=1, records=50, loop_seconds=seconds, waited_seconds=seconds / 10)


class Written:
    """A function of numbers and a step."""

    def __init__(self) -> None:
        self.all: list[tuple[int, dict[str, float]]] = []

    def __call__(self, found: dict[str, float], step: int) -> None:
        self.all.append((step, found))


def stream(path: Path, **options: Any) -> Stream:
    return open_dataset(path, split="train").stream(**{"batch_size": 10, "threads": 2, **options})


def test_numbers_are_shares_and_rates() -> None:
    stats = Stats(
        batches=10, records=500, loop_seconds=10, waited_seconds=1, worker_seconds=40, read_seconds=2, decode_seconds=8,
        transform_seconds=4, page_waits=3, stalled_seconds=0.5, bytes_fetched=1000,
    )  # fmt: skip
    expected = dict(zip(NAMES, [0.1, 50.0, 0.35, 0.05, 0.2, 0.1, 3.0, 0.05, 100.0], strict=True))
    assert numbers(stats) == pytest.approx({f"data/{name}": value for name, value in expected.items()})
    assert numbers(stats, "") == pytest.approx(expected)
    assert numbers(Stats()) == {}


def test_a_logger_writes_the_work_since_the_last_time_and_that_of_each_epoch() -> None:
    given, written = Given(), Written()
    given.work(7)  # before the logger
    logger = StatsLogger(given, written, every=2)
    for seconds in (1, 1, 4, 6, 10):
        given.work(seconds)
        logger.step()
    assert logger.end_epoch() == Stats(batches=5, records=250, loop_seconds=22, waited_seconds=pytest.approx(2.2))
    rates = [(step, dict(found)) for step, found in written.all]
    assert [step for step, _ in rates] == [2, 4, 5]
    assert [found.get("data/records_per_second") for _, found in rates] == [50, 10, None]
    assert rates[2][1]["data/epoch/records_per_second"] == pytest.approx(250 / 22)
    assert list(rates[0][1]) == [f"data/{name}" for name in NAMES]
    given.work(1)
    logger.step()
    given.work(1)
    logger.step()  # two of the second epoch
    assert written.all[-1][0] == 7


def test_a_training_numbers_its_own_steps() -> None:
    given, written = Given(), Written()
    logger = StatsLogger(given, written, every=1, prefix="train/data/")
    given.work(1)
    logger.step(4000)
    assert written.all[0][0] == 4000 and "train/data/waited" in written.all[0][1]


def test_a_loop_that_other_processes_feed_is_told_so() -> None:
    written = Written()
    with pytest.warns(RuntimeWarning, match="no batch of this epoch was counted in this process.*num_workers=0"):
        StatsLogger(Given(), written).end_epoch()
    assert written.all == []


@pytest.mark.parametrize("to", [None, 3, "runs"])
def test_another_place_is_an_error(to: Any) -> None:
    with pytest.raises(TypeError, match=r"to=.*must be a function of numbers and a step"):
        StatsLogger(Given(), to)


def test_a_stream_has_stats() -> None:
    with pytest.raises(TypeError, match=r"has no stats\(\): pass a stream"):
        StatsLogger([1, 2], Written())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="every=0"):
        StatsLogger(Given(), Written(), every=0)


class Run:
    """A run of Weights & Biases: the methods that are called of it."""

    def __init__(self) -> None:
        self.metrics: dict[str, str] = {}
        self.rows: list[dict[str, Any]] = []

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics[name] = str(step_metric)

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        assert step is None and commit is None
        self.rows.append(data)


def test_a_run_of_weights_and_biases_has_a_step_of_its_own() -> None:
    given, run = Given(), Run()
    logger = StatsLogger(given, run, every=1)
    for _ in range(2):
        given.work(1)
        logger.step()
    logger.end_epoch()
    assert [row.get("data/step") for row in run.rows] == [1, 2, None]
    assert run.rows[2]["data/epoch/step"] == 2
    assert run.metrics["data/waited"] == "data/step" and run.metrics["data/epoch/waited"] == "data/epoch/step"


def test_a_logger_of_lightning() -> None:
    class Logger:
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            found.append((metrics["data/waited"], step))

    given, found = Given(), list[Any]()
    logger = StatsLogger(given, Logger(), every=1)
    given.work(1)
    logger.step(17)
    assert found == [(0.1, 17)]


@pytest.mark.slow
def test_tensorboard_of_pytorch(raw_shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    one = stream(raw_shards)
    with SummaryWriter(str(tmp_path)) as writer:
        logger = StatsLogger(one, writer, every=2)
        for _ in one:
            logger.step()
        logger.end_epoch()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("data/waited")] == [2, 4]
    assert [event.step for event in events.Scalars("data/epoch/records_per_second")] == [5]


@pytest.mark.slow
def test_tensorboard_of_tensorflow(raw_shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tensorflow = pytest.importorskip("tensorflow")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    one, writer = stream(raw_shards), tensorflow.summary.create_file_writer(str(tmp_path))
    logger = StatsLogger(one, writer, every=2)
    for _ in one:
        logger.step()
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Tensors("data/waited")] == [2, 4]


def run(script: str, *arguments: object, **environment: str) -> Any:
    """The last line that a script prints, which is JSON."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


KERAS = """
import json, sys, keras
from shard_reader import open_dataset
from shard_reader.keras import ShardSequence
from shard_reader.telemetry.keras import StatsCallback

train = ShardSequence(open_dataset(sys.argv[1], split="train").stream(batch_size=10, report=True))
model = keras.Sequential([keras.Input((12, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
written = []
callback = StatsCallback(train, lambda found, step: written.append((step, sorted(found)[0])), every=2)
history = model.fit(train, epochs=2, verbose=0, callbacks=[callback]).history
print(json.dumps([{name: len(values) for name, values in history.items()}, written, train.stats().batches]))
"""


@pytest.mark.slow
def test_keras_has_the_numbers_of_each_epoch_in_its_history(raw_shards: Path) -> None:
    pytest.importorskip("keras")
    pytest.importorskip("torch")
    (history, written, batches), reported = run(KERAS, raw_shards, KERAS_BACKEND="torch")
    assert history == {"loss": 2, "data/waited": 2, "data/records_per_second": 2}
    steps, epochs = ("data/busy", "data/epoch/busy")
    assert written == [[2, steps], [4, steps], [5, epochs], [7, steps], [9, steps], [10, epochs]]
    assert batches >= 10  # Keras takes batches to learn the shapes
    assert [line.partition(":")[2].split(":")[0] for line in reported.splitlines() if "shard_reader" in line] == [
        " epoch 0",
        " epoch 1",
    ]


LIGHTNING = """
import json, logging, sys, torch
import pytorch_lightning as lightning
from pytorch_lightning.loggers import CSVLogger
from shard_reader import open_dataset
from shard_reader.telemetry.lightning import StatsCallback
from shard_reader.torch import StreamDataset

class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, number):
        return self.value.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

dataset = StreamDataset(open_dataset(sys.argv[1], split="train").stream(batch_size=10))
trainer = lightning.Trainer(
    accelerator="cpu", max_epochs=2, logger=CSVLogger(sys.argv[2]), enable_progress_bar=False,
    enable_model_summary=False, enable_checkpointing=False, callbacks=[StatsCallback(dataset, every=2)],
)
trainer.fit(Model(), dataset)
print(json.dumps(dataset.stats().batches))
"""


@pytest.mark.slow
def test_lightning_has_the_numbers_in_its_loggers(raw_shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    batches, _ = run(LIGHTNING, raw_shards, tmp_path)
    assert batches == 10
    (file,) = tmp_path.rglob("metrics.csv")
    names, *lines = [line.split(",") for line in file.read_text().splitlines()]
    rows = [dict(zip(names, line, strict=True)) for line in lines]
    assert [row["step"] for row in rows if row["data/waited"]] == ["2", "4", "7", "9"]
    assert [row["step"] for row in rows if row["data/epoch/waited"]] == ["5", "10"]


def test_workers_of_a_dataloader_count_for_themselves(raw_shards: Path) -> None:
    torch = pytest.importorskip("torch")
    from shard_reader.torch import StreamDataset

    dataset = StreamDataset(stream(raw_shards))
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
    assert len(list(loader)) == 5
    assert dataset.stats().batches == 0
    list(torch.utils.data.DataLoader(dataset, batch_size=None))
    assert dataset.stats().batches == 5


def test_jax_counts_the_stream_of_its_process(raw_shards: Path) -> None:
    pytest.importorskip("jax")
    from shard_reader.jax import GlobalBatches

    batches = GlobalBatches(stream(raw_shards))
    list(batches)
    assert batches.stats().batches == 5
