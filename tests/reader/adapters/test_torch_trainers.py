"""Accelerate, Hugging Face's Trainer and Lightning around a StreamDataset: each record once an epoch, or an error."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from support.ranks import run_ranks

from shard_reader import StateError, Stream, open_dataset

torch = pytest.importorskip("torch", reason="needs PyTorch")

from torch.utils.data import DataLoader, IterableDataset  # noqa: E402  # after the check that it can be

from shard_reader.torch import StreamDataset  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
NO_BATCHES = "a StreamDataset gives batches, .* pass batch_size=None"


def stream(path: Path, **options: Any) -> Stream:
    """48 records of the split "train" in 6 batches."""
    return open_dataset(path).stream(batch_size=8, fields=("id",), seed=3, **options)


def ids(batches: Any) -> list[list[bytes]]:
    return [batch["id"].tolist() for batch in batches]


# --- A plain DataLoader ---


@pytest.mark.parametrize("options", [{}, {"batch_size": 32}, {"batch_size": 2, "num_workers": 1}], ids=str)
def test_batches_of_batches_are_an_error(raw_shards: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=NO_BATCHES):
        next(iter(DataLoader(StreamDataset(stream(raw_shards)), **options)))


class Records(IterableDataset[bytes]):
    """The records of a stream's batches, one by one."""

    def __init__(self, batches: StreamDataset) -> None:
        self._batches = batches

    def __iter__(self) -> Any:
        for batch in self._batches:
            yield from batch["id"]


@pytest.mark.slow
def test_a_dataset_that_takes_batches_apart_may_be_batched(raw_shards: Path) -> None:
    loader = DataLoader(Records(StreamDataset(stream(raw_shards))), batch_size=12, collate_fn=list)
    assert list(chain(*loader)) == list(chain(*ids(stream(raw_shards))))


# --- set_epoch ---


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_set(raw_shards: Path, workers: int) -> None:
    expected, dataset = (
        [ids(stream(raw_shards).batches(epoch)) for epoch in range(4)],
        StreamDataset(stream(raw_shards)),
    )
    loader = DataLoader(dataset, batch_size=None, num_workers=workers) if workers else dataset
    for epoch in (0, 1, 3, 3, 0):
        dataset.set_epoch(epoch)
        dataset.set_epoch(epoch)
        assert ids(loader) == expected[epoch]
    assert ids(loader) == expected[1]


def test_the_epoch_of_a_loop_that_broke_off_begins_again(raw_shards: Path) -> None:
    dataset = StreamDataset(stream(raw_shards))
    loop = iter(dataset)
    first = next(loop)["id"].tolist()
    dataset.set_epoch(0)
    assert next(iter(dataset))["id"].tolist() == first
    with pytest.raises(RuntimeError, match="this loop"):
        next(loop)


def restored_stream(one: Stream, state: dict[str, Any]) -> StreamDataset:
    one.load_state_dict(state)
    return StreamDataset(one)


def restored_dataset(one: Stream, state: dict[str, Any]) -> StreamDataset:
    dataset = StreamDataset(one)
    dataset.load_state_dict(state)
    return dataset


@pytest.mark.parametrize("restored", [restored_stream, restored_dataset])
@pytest.mark.parametrize("place", [(1, 4), (2, 0)])
def test_a_restored_position_is_not_lost(
    raw_shards: Path, restored: Callable[..., StreamDataset], place: tuple[int, int]
) -> None:
    epoch, step = place
    one = stream(raw_shards)
    expected = [ids(one.batches(number)) for number in range(4)]
    dataset = restored(one, one.state_at(step, epoch))
    with pytest.raises(StateError, match=rf"set_epoch\(0\) would lose .*epoch {epoch}, step {step}: .*set_epoch"):
        dataset.set_epoch(0)
    dataset.set_epoch(epoch)
    assert ids(dataset) == expected[epoch][step:]
    dataset.set_epoch(0)
    assert ids(dataset) == expected[0]


def test_a_stream_of_another_rank_can_be_set(raw_shards: Path) -> None:
    one = stream(raw_shards).for_rank(0, 2)
    one.set_epoch(3)
    assert one.next == (3, 0)
    with pytest.raises(IndexError, match="epoch -1"):
        one.set_epoch(-1)


# --- Trainers: scripts, which print what they took or the error. Batches are lists of content hashes. ---

COMMON = """
import json, logging, sys, warnings
warnings.simplefilter("ignore")
import torch
from torch.utils.data import DataLoader
from shard_reader import open_dataset
from shard_reader.torch import StreamDataset

data = open_dataset(sys.argv[1])

def dataset(**options):
    return StreamDataset(data.stream(batch_size=8, fields=("content_hash",), seed=3), **options)

def loader(workers=0, **options):
    return DataLoader(dataset(**options), batch_size=None, num_workers=workers)

def read(batches):
    return [batch["content_hash"].tolist() for batch in batches]

def tried(function):
    try:
        return function()
    except Exception as error:
        return f"{error!r} {error.__context__!r}"  # Lightning fails once more while it ends
"""
ACCELERATE = """
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration

def prepared(loader, **options):
    return Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**options)).prepare(loader)

whole = prepared(loader(distributed=False))
grouped = prepared(loader(distributed=False), dispatch_batches=False)
print(json.dumps({
    "shared": tried(lambda: read(prepared(loader()))),
    "shared by workers": tried(lambda: read(prepared(loader(workers=1)))),
    "grouped": tried(lambda: read(grouped)),
    "batched": tried(lambda: read(prepared(DataLoader(dataset(distributed=False), batch_size=2)))),
    "whole": [read(whole), read(whole)],
}))
"""
TRAINER = """
from transformers import Trainer, TrainingArguments

taken = []

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.ones(1))

    def forward(self, content_hash, weight):
        taken.append({"content_hash": content_hash})
        return {"loss": self.value.sum()}

class Whole(Trainer):
    def get_train_dataloader(self):
        return self.accelerator.prepare(DataLoader(self.train_dataset, batch_size=None))

class Unprepared(Trainer):
    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_size=None)

def train(trainer, steps=-1, resume=None, **options):
    taken.clear()
    arguments = TrainingArguments(
        sys.argv[2], num_train_epochs=2, max_steps=steps, use_cpu=True, report_to=[],
        save_strategy="steps", save_steps=8, disable_tqdm=True, logging_strategy="no", remove_unused_columns=False,
    )
    trainer(Model(), arguments, train_dataset=dataset(**options)).train(resume_from_checkpoint=resume)
    return read(taken)
"""
TRAINER_RANKS = """
print(json.dumps({
    "plain": tried(lambda: train(Trainer, distributed=False)),
    "shared": tried(lambda: train(Whole)),
    "whole": train(Whole, distributed=False),
}))
"""
TRAINER_RESUMED = """
checkpoint = sys.argv[2] + "/checkpoint-8"
print(json.dumps({
    "stopped": train(Whole, steps=8),
    "resumed": train(Whole, resume=checkpoint),
    "unprepared": tried(lambda: train(Unprepared, resume=checkpoint)),
}))
"""
LIGHTNING = """
try:
    import lightning.pytorch as lightning
except ImportError:
    import pytorch_lightning as lightning
from torchdata.stateful_dataloader import StatefulDataLoader

logging.getLogger(lightning.__name__).setLevel(logging.ERROR)

class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.value, self.taken = torch.nn.Parameter(torch.ones(1)), []

    def training_step(self, batch, number):
        self.taken.append(batch)
        return self.value.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

def train(batches, epochs=2, ranks=1, callbacks=(), checkpoint=None):
    model = Model()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", max_epochs=epochs, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=bool(callbacks),
        callbacks=list(callbacks),
    )
    trainer.fit(model, batches, ckpt_path=checkpoint)
    return read(model.taken)
"""
LIGHTNING_RANKS = """
print(json.dumps([train(loader(), ranks=2), train(dataset(), ranks=2)]))
"""
LIGHTNING_RESUMED = """
def saved(kind, name, **when):
    return lightning.callbacks.ModelCheckpoint(f"{sys.argv[2]}/{kind}", filename=name, save_top_k=-1, **when)

KINDS = {
    "itself": dataset,
    "loader": loader,
    "workers": lambda: loader(workers=1),
    "stateful": lambda: StatefulDataLoader(dataset(), batch_size=None),
}
result = {}
for kind, batches in KINDS.items():
    callbacks = [saved(kind, "{step}", every_n_train_steps=4), saved(kind, "{epoch}", every_n_epochs=1)]
    result[kind] = train(batches(), callbacks=callbacks)
    for name in ("step=8", "step=12", "epoch=0"):
        path = f"{sys.argv[2]}/{kind}/{name}.ckpt"
        result[f"{kind} {name}"] = tried(lambda: train(batches(), epochs=3, checkpoint=path))
print(json.dumps(result))
"""
DIVIDED = "would divide the batches of one process among 2 processes"
ELSEWHERE = "other batches would come next"


@pytest.fixture(scope="module")
def hashes(raw_shards: Path) -> list[list[int]]:
    """The content hashes of each batch of three epochs, one after the other."""
    one = open_dataset(raw_shards).stream(batch_size=8, fields=("content_hash",), seed=3)
    return [batch["content_hash"].tolist() for epoch in range(3) for batch in one.batches(epoch)]


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def alternating(results: list[Any]) -> list[Any]:
    """The batches of two ranks, which took turns."""
    return [batch for pair in zip(*results, strict=True) for batch in pair]


def run(script: str, *arguments: object) -> Any:
    """The last line that a script prints, which is JSON."""
    return run_ranks(script, *arguments, world_size=1)[0]


@pytest.mark.slow
@needs("accelerate")
def test_accelerate_divides_no_share(raw_shards: Path, hashes: list[list[int]]) -> None:
    results = run_ranks(COMMON + ACCELERATE, raw_shards)
    for result in results:
        for kind in ("shared", "shared by workers"):
            assert DIVIDED in result[kind] and "distributed=False" in result[kind]
        assert "would take batches for records" in result["grouped"] and "dispatch_batches=True" in result["grouped"]
        assert "pass batch_size=None" in result["batched"]
    whole = [alternating([result["whole"][epoch] for result in results]) for epoch in range(2)]
    assert whole == [hashes[:6], hashes[6:12]]


@needs("accelerate", "transformers")
@pytest.mark.slow
def test_the_trainer_divides_no_share(raw_shards: Path, hashes: list[list[int]], tmp_path: Path) -> None:
    results = run_ranks(COMMON + TRAINER + TRAINER_RANKS, raw_shards, tmp_path)
    assert all("pass batch_size=None" in result["plain"] and DIVIDED in result["shared"] for result in results)
    assert alternating([result["whole"] for result in results]) == hashes[:12]


@needs("accelerate", "transformers")
@pytest.mark.slow
def test_the_trainer_goes_on_with_the_epoch_that_it_restored(
    raw_shards: Path, hashes: list[list[int]], tmp_path: Path
) -> None:
    result = run(COMMON + TRAINER + TRAINER_RESUMED, raw_shards, tmp_path)
    assert result["stopped"] + result["resumed"] == hashes[:12]
    assert ELSEWHERE in result["unprepared"] and "get_train_dataloader" in result["unprepared"]


LIGHTNING_PACKAGE = "lightning" if importlib.util.find_spec("lightning") else "pytorch_lightning"


@needs(LIGHTNING_PACKAGE)
@pytest.mark.slow
def test_lightning_divides_no_share(raw_shards: Path, hashes: list[list[int]]) -> None:
    results = run_ranks(COMMON + LIGHTNING + LIGHTNING_RANKS, raw_shards)
    for shares in zip(*results, strict=True):
        assert [sorted(one + other) for one, other in zip(*shares, strict=True)] == [sorted(b) for b in hashes[:12]]


@needs(LIGHTNING_PACKAGE, "torchdata")
@pytest.mark.slow
def test_lightning_restores_a_position_or_says_so(raw_shards: Path, hashes: list[list[int]], tmp_path: Path) -> None:
    result = run(COMMON + LIGHTNING + LIGHTNING_RESUMED, raw_shards, tmp_path)
    assert all(result[kind] == hashes[:12] for kind in ("itself", "loader", "workers", "stateful"))
    for name, done in {"step=8": 8, "step=12": 12, "epoch=0": 6}.items():
        assert result[f"itself {name}"] == hashes[done:], name
        for kind in ("loader", "workers"):
            assert ELSEWHERE in result[f"{kind} {name}"], (kind, name)
    assert result["stateful step=8"] == hashes[8:]
    assert ELSEWHERE in result["stateful epoch=0"]
