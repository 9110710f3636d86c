"""Accelerate, Hugging Face's Trainer and Lightning around a StreamDataset: each rank its share, in the same epoch."""

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

def accelerator(**options):
    return Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**options))

def prepared(loader, **options):
    return accelerator(**options).prepare(loader)

def first(batches, count):
    return [batch["content_hash"].tolist() for batch, _ in zip(batches, range(count))]

def resumed(place, skip=0, epochs=1, **options):
    one = dataset(**options)
    state = one.state_dict() | {"epoch": place[0], "step": place[1]}
    run = accelerator()
    loader = run.prepare(DataLoader(one, batch_size=None))
    if place != (0, 0):
        one.load_state_dict(state)
    loops = [run.skip_first_batches(loader, skip) if skip else loader, *[loader] * (epochs - 1)]
    return [read(loop) for loop in loops]

def saved(kind, position):
    # Three batches of the second epoch, and a checkpoint; then what another run takes from there on.
    taken = []
    for _ in range(2):
        run, one = accelerator(use_stateful_dataloader=kind == "stateful"), dataset()
        loader = run.prepare(one if kind == "itself" else DataLoader(one, batch_size=None))
        if kind != "stateful":
            run.register_for_checkpointing(one)
        if taken:
            run.load_state(f"{sys.argv[2]}/{kind}")
            taken.append([read(loader), read(loader)])
        else:
            taken.append([read(loader), []])
            for number, batch in enumerate(loader):
                taken[0][1].append(batch["content_hash"].tolist())
                if number == 2:
                    if kind != "stateful":  # whose loader has the position
                        position[kind] = one.state_dict()["step"]
                    run.save_state(f"{sys.argv[2]}/{kind}")
                    run.wait_for_everyone()
                    break
    return taken

"""
ACCELERATE_RANKS = """
whole = prepared(loader(distributed=False))
position = {}
few = StreamDataset(data.select(range(41)).stream(batch_size=8, fields=("content_hash",), remainder="keep"))
evaluator = accelerator()
gathered = [
    evaluator.gather_for_metrics(batch["content_hash"]).tolist()
    for batch in evaluator.prepare(DataLoader(few, batch_size=None))
]
shared = prepared(loader())
print(json.dumps({
    "shared": [len(shared), read(shared), read(shared), read(shared)],
    "skipped": resumed((0, 0), skip=2, epochs=2),
    "restored": resumed((2, 4), epochs=2),
    "restored and skipped": resumed((0, 3), skip=3, epochs=2),
    "none": tried(lambda: dataset().load_state_dict(dataset().state_dict() | {"step": None})),
    "twice": tried(lambda: resumed((0, 3), skip=2)),
    "saved": {kind: saved(kind, position) for kind in ("itself", "loader")},
    "position": position,
    "workers": tried(lambda: read(prepared(loader(workers=1)))),
    "grouped": tried(lambda: read(prepared(loader(), dispatch_batches=False))),
    "batched": tried(lambda: read(prepared(DataLoader(dataset(), batch_size=2)))),
    "split": tried(lambda: read(prepared(loader(), split_batches=True))),
    "whole": [len(whole), read(whole), read(whole)],
    "state of whole": tried(whole.dataset.state_dict),
    "coverage": tried(shared.dataset.coverage),
    "gathered": sorted(sum(gathered, [])),
}))
"""
ACCELERATE_ALONE = """
position = {}
print(json.dumps([[saved(kind, position) for kind in ("itself", "loader", "stateful")], position]))
"""
DDP = """
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(1)
distributed.init_process_group("gloo")

def trained(**options):
    # A convolution of 1x1 with a stride, as the shortcuts of a ResNet.
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 1, stride=2, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    batches = StreamDataset(data.stream(batch_size=8, seed=3), inputs="image", targets="label", **options)
    model = DistributedDataParallel(network)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for images, labels, weight in batches:
            model(images.float()).sum().backward()
    return ["Grad strides do not match bucket view strides" in str(one.message) for one in found]

# PyTorch says it once in a process, so the one that it does not concern comes first.
print(json.dumps([trained(), trained(memory_format=torch.channels_last)]))
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

class Prepared(Trainer):
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
checkpoint = sys.argv[2] + "/checkpoint-8"
print(json.dumps({
    "plain": tried(lambda: train(Trainer)),
    "itself": train(Unprepared, steps=8),
    "resumed": train(Unprepared, resume=checkpoint),
    "handed out": train(Prepared, steps=8),
    "handed out, resumed": train(Prepared, resume=checkpoint),
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
    "workers": lambda: DataLoader(dataset(), batch_size=None, num_workers=1, persistent_workers=True),
    "stateful": lambda: StatefulDataLoader(dataset(), batch_size=None),
}
result = {}
for kind, batches in KINDS.items():
    callbacks = [saved(kind, "{step}", every_n_train_steps=4), saved(kind, "{epoch}", every_n_epochs=1)]
    result[kind] = train(batches(), callbacks=callbacks)
    for name in ("step=8", "step=12", "epoch=0"):
        path = f"{sys.argv[2]}/{kind}/{name}.ckpt"
        result[f"{kind} {name}"] = tried(lambda: train(batches(), epochs=3, checkpoint=path))
moved = loader()
moved.dataset.load_state_dict(moved.dataset.state_dict() | {"step": 3})
result["elsewhere"] = tried(lambda: train(moved, epochs=3, checkpoint=f"{sys.argv[2]}/loader/step=8.ckpt"))
print(json.dumps(result))
"""


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


def by_step_of_epoch(shards: Path, epoch: int) -> list[list[int]]:
    one = open_dataset(shards).stream(batch_size=8, fields=("content_hash",), seed=3)
    return [batch["content_hash"].tolist() for batch in one.batches(epoch)]


def run(script: str, *arguments: object) -> Any:
    """The last line that a script prints, which is JSON."""
    return run_ranks(script, *arguments, world_size=1)[0]


def by_step(results: list[Any]) -> list[list[int]]:
    """The global batches of two ranks, each of which took its share of every batch."""
    return [[value for pair in zip(*shares, strict=True) for value in pair] for shares in zip(*results, strict=True)]


@needs("accelerate", "torchdata")
@pytest.mark.slow
def test_accelerate_gives_each_process_its_share(raw_shards: Path, hashes: list[list[int]], tmp_path: Path) -> None:
    results = run_ranks(COMMON + ACCELERATE + ACCELERATE_RANKS, raw_shards, tmp_path)
    epochs = [hashes[:6], hashes[6:12], hashes[12:]]

    def loops(kind: str) -> list[list[list[int]]]:
        return [by_step(shares) for shares in zip(*(result[kind] for result in results), strict=True)]

    assert [result["shared"].pop(0) for result in results] == [6, 6]
    assert loops("shared") == epochs
    assert loops("skipped") == [hashes[2:6], epochs[1]]
    assert loops("restored") == [hashes[16:], by_step_of_epoch(raw_shards, 3)]
    assert loops("restored and skipped") == [hashes[3:6], epochs[1]]
    for kind in ("itself", "loader"):
        before, after = ([result["saved"][kind][run] for result in results] for run in range(2))
        taken = [by_step(shares) for shares in (*zip(*before, strict=True), *zip(*after, strict=True))]
        assert taken == [epochs[0], hashes[6:9], hashes[9:12], epochs[2]], kind
    # Only the main process knows it, where it reads for all.
    assert [result["position"] for result in results] == [{"itself": 3, "loader": step} for step in (3, None)]
    for result in results:
        assert "of a process that Accelerate handed its batches" in result["none"]
        assert "skips 2 batches, and the stream was restored to step 3" in result["twice"]
        assert "num_workers=1: Accelerate has one process read" in result["workers"]
        assert "would take batches for records" in result["grouped"]
        assert "pass batch_size=None" in result["batched"]
        assert "`split_batches==True` you must have a `batch_size`" in result["split"]  # Accelerate's own error
        assert "takes batches in advance for several processes" in result["state of whole"]
        assert "main process read the batches of all ranks" in result["coverage"]
        # Of the last batch of one record, each process gets one, and Accelerate leaves the repeated one out.
        assert result["gathered"] == sorted(open_dataset(raw_shards).column("content_hash")[:41].tolist())
    assert [result["whole"].pop(0) for result in results] == [3, 3]
    whole = [alternating(list(shares)) for shares in zip(*(result["whole"] for result in results), strict=True)]
    assert whole == epochs[:2]


@needs("accelerate", "torchdata")
@pytest.mark.slow
def test_a_position_under_accelerate_is_that_of_the_batch_in_use(
    raw_shards: Path, hashes: list[list[int]], tmp_path: Path
) -> None:
    kinds, position = run(COMMON + ACCELERATE + ACCELERATE_ALONE, raw_shards, tmp_path)
    assert kinds == [[[hashes[:6], hashes[6:9]], [hashes[9:12], hashes[12:]]]] * 3
    assert position == {"itself": 3, "loader": 3}


@pytest.mark.slow
def test_the_gradients_of_distributed_data_parallel_fit_their_buckets(raw_shards: Path) -> None:
    assert run_ranks(COMMON + DDP, raw_shards) == [[[], [True]]] * 2


@needs("accelerate", "transformers")
@pytest.mark.slow
def test_the_trainer_takes_each_share_and_resumes(raw_shards: Path, hashes: list[list[int]], tmp_path: Path) -> None:
    results = run_ranks(COMMON + TRAINER + TRAINER_RANKS, raw_shards, tmp_path)
    assert all("pass batch_size=None" in result["plain"] for result in results)
    for kind, expected in (("itself", hashes[:8]), ("resumed", hashes[8:12])):
        assert by_step([result[kind] for result in results]) == expected
    for kind, expected in (("handed out", hashes[:8]), ("handed out, resumed", hashes[8:12])):
        assert by_step([result[kind] for result in results]) == expected


LIGHTNING_PACKAGE = "lightning" if importlib.util.find_spec("lightning") else "pytorch_lightning"


@needs(LIGHTNING_PACKAGE)
@pytest.mark.slow
def test_lightning_divides_no_share(raw_shards: Path, hashes: list[list[int]]) -> None:
    results = run_ranks(COMMON + LIGHTNING + LIGHTNING_RANKS, raw_shards)
    for shares in zip(*results, strict=True):
        assert by_step(list(shares)) == hashes[:12]


@needs(LIGHTNING_PACKAGE, "torchdata")
@pytest.mark.slow
def test_a_loop_begins_where_lightning_was_restored(raw_shards: Path, hashes: list[list[int]], tmp_path: Path) -> None:
    result = run(COMMON + LIGHTNING + LIGHTNING_RESUMED, raw_shards, tmp_path)
    for kind in ("itself", "loader", "workers", "stateful"):
        assert result[kind] == hashes[:12], kind
        for name, done in {"step=8": 8, "step=12": 12, "epoch=0": 6}.items():
            assert result[f"{kind} {name}"] == hashes[done:], (kind, name)
    assert "restored epoch 1, step 2, and the stream was restored to epoch 0, step 3" in result["elsewhere"]
