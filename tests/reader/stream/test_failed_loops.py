"""A loop that failed does not look finished: it says so when it is asked again, and its state leads to the rest."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shard_reader import CenterCrop, Stream, mix, open_dataset
from shard_reader.transforms import Transform

SAYS_SO = r"this loop failed.* load_state_dict\(state_dict\(\)\).* failed with ValueError: .*this image fails"


class Failing(Transform):
    """Crops images, but for some that it fails on."""

    def __init__(self) -> None:
        self.bad: set[bytes] = set()

    def output_shape(self, shape: Any) -> Any:
        return 12, 12, 3

    def __call__(self, image: Any, draws: Any, out: Any = None) -> Any:
        crop = CenterCrop(12)(image, draws)
        if crop.tobytes() in self.bad:
            raise ValueError("this image fails")
        return crop


def stream(path: Path, transform: Transform | None = None, **options: Any) -> Stream:
    """60 images in 6 batches."""
    return open_dataset(path).stream(
        batch_size=10, image=transform or CenterCrop(12), fields=("image", "id"), **options
    )


def ids(batches: Any) -> list[list[bytes]]:
    return [batch["id"].tolist() for batch in batches]


def fail(one: Stream, transform: Failing, loop: Iterator[Any]) -> list[list[bytes]]:
    """Have the third batch of an epoch fail, with which the loop ends; the ids of the batches before it."""
    transform.bad.add(one.batch(0, 2)["image"][4].tobytes())
    given = [next(loop), next(loop)]
    with pytest.raises(ValueError, match="this image fails"):
        next(loop)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=SAYS_SO):
            next(loop)
    transform.bad.clear()
    return ids(given)


@pytest.mark.parametrize("kind", ["stream", "batches", "mixture"])
def test_a_loop_that_failed_says_so(jpeg_shards: Path, kind: str) -> None:
    data, transform = open_dataset(jpeg_shards), Failing()
    one = (mix([data, data], [1, 1]) if kind == "mixture" else data).stream(
        batch_size=10, image=transform, fields=("image", "id")
    )
    fail(one, transform, one.batches(0) if kind == "batches" else iter(one))


def test_the_state_after_a_failure_leads_to_the_rest(jpeg_shards: Path) -> None:
    expected, transform = ids(stream(jpeg_shards).batches(0)), Failing()
    one = stream(jpeg_shards, transform)
    given = fail(one, transform, iter(one))
    one.load_state_dict(one.state_dict())
    assert given + ids(one) == expected


def test_a_loop_that_was_interrupted_says_so(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stream(jpeg_shards)
    expected = ids(one.batches(0))
    loop = iter(one)
    given = [next(loop)]

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(one._reader, "finish", interrupted)  # where a loop waits
        with pytest.raises(KeyboardInterrupt):
            next(loop)
    with pytest.raises(RuntimeError, match=r"this loop failed.* with KeyboardInterrupt"):
        next(loop)
    one.load_state_dict(one.state_dict())
    assert ids(given) + ids(one) == expected


def test_a_loop_that_ended_well_stays_at_its_end(jpeg_shards: Path) -> None:
    for loop in (iter(one := stream(jpeg_shards)), one.batches(1)):
        assert len(list(loop)) == 6 and list(loop) == []


def test_a_copy_made_in_the_middle_of_an_epoch_goes_on_there(jpeg_shards: Path) -> None:
    one = stream(jpeg_shards)
    expected = [ids(one.batches(epoch)) for epoch in (0, 1)]
    loop = iter(one)
    given = ids(next(loop) for _ in range(2))
    other = pickle.loads(pickle.dumps(one))
    assert (other.step, other.next, other.remaining) == (2, (0, 2), 4)
    assert [given + ids(other), ids(other)] == expected
    assert given + ids(loop) == expected[0]


def torch_dataset(one: Stream) -> Iterator[Any]:
    pytest.importorskip("torch", reason="needs PyTorch")
    from shard_reader.torch import StreamDataset

    return iter(StreamDataset(one))


def torch_loader(one: Stream) -> Iterator[Any]:
    data = pytest.importorskip("torch.utils.data", reason="needs PyTorch")
    from shard_reader.torch import StreamDataset

    return iter(data.DataLoader(StreamDataset(one), batch_size=None))


def jax_batches(one: Stream) -> Iterator[Any]:
    pytest.importorskip("jax", reason="needs JAX")
    from shard_reader.jax import GlobalBatches

    return iter(GlobalBatches(one))


def keras_sequence(one: Stream) -> Iterator[Any]:
    pytest.importorskip("keras", reason="needs Keras")
    from shard_reader.keras import ShardSequence

    return iter(ShardSequence(one, inputs=lambda batch: batch, targets=None, weight=None))


@pytest.mark.parametrize("adapted", [torch_dataset, torch_loader, jax_batches, keras_sequence])
def test_an_adapter_that_failed_says_so(jpeg_shards: Path, adapted: Callable[[Stream], Iterator[Any]]) -> None:
    transform = Failing()
    one = stream(jpeg_shards, transform, remainder="keep")
    fail(one, transform, adapted(one))


def test_a_worker_that_failed_says_so(jpeg_shards: Path) -> None:
    """One of two: the batches of the other come in between."""
    data = pytest.importorskip("torch.utils.data", reason="needs PyTorch")
    from shard_reader.torch import StreamDataset

    transform = Failing()
    one = stream(jpeg_shards, transform)
    transform.bad.add(one.batch(0, 2)["image"][4].tobytes())
    loop = iter(data.DataLoader(StreamDataset(one), batch_size=None, num_workers=2))
    found = []
    for _ in range(6):
        try:
            found.append(next(loop)["id"].tolist())
        except (ValueError, RuntimeError) as error:
            found.append(str(error).splitlines()[-1])
    expected = ids(stream(jpeg_shards).batches(0))
    assert found[:2] + found[3:4] + found[5:] == expected[:2] + expected[3:4] + expected[5:]
    assert "this image fails" in found[2] and "this loop failed" in found[4]


def test_tensorflow_is_told_that_a_loop_failed(jpeg_shards: Path) -> None:
    tf = pytest.importorskip("tensorflow", reason="needs TensorFlow")
    from shard_reader.tf_data import as_dataset

    transform = Failing()
    one = stream(jpeg_shards, transform)
    transform.bad.add(one.batch(0, 2)["image"][4].tobytes())
    loop = iter(as_dataset(one))
    assert [next(loop)["id"].numpy().tolist() for _ in range(2)] == ids(stream(jpeg_shards).batches(0))[:2]
    for said in ("this image fails", "this loop failed", "this loop failed"):
        with pytest.raises(tf.errors.OpError, match=said):
            next(loop)


def test_a_batch_of_keras_can_be_asked_for_again(jpeg_shards: Path) -> None:
    pytest.importorskip("keras", reason="needs Keras")
    from shard_reader.keras import ShardSequence

    transform = Failing()
    one = stream(jpeg_shards, transform)
    sequence = ShardSequence(one, inputs="id", targets=None)
    transform.bad.add(one.batch(0, 2)["image"][4].tobytes())
    sequence.on_epoch_begin()
    found = [sequence[0], sequence[1]]
    with pytest.raises(ValueError, match="this image fails"):
        sequence[2]
    transform.bad.clear()
    found += [sequence[step] for step in range(2, 6)]
    assert [names.tolist() for (names,) in found] == ids(stream(jpeg_shards).batches(0))
