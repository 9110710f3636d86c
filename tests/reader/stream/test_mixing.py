"""MixUp and CutMix: as torchvision defines them, the same in every framework, after any resume, and for any ranks."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shard_reader import Resize, open_dataset
from shard_reader.mixing import CutMix, MixUp, mixed, mixing_of
from shard_reader.transforms.draws import Draws

RNG = np.random.default_rng(0)
IMAGES = RNG.random((6, 10, 14, 3), np.float32)
LABELS = np.array([0, 3, 1, 2, 2, 0])
WEIGHTS = np.ones(6, np.float32)


def numbers(way: Any, seed: int = 1) -> NDArray[np.float32]:
    return mixing_of([way], Draws(seed, 0), 10, 14, WEIGHTS)


def batch_of(way: Any, **options: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float32]]:
    rows = numbers(way, **options)
    return *mixed(IMAGES, LABELS, rows, 4), rows


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 1.7, 8.0])
def test_shares_are_from_a_beta_distribution(alpha: float) -> None:
    shares = np.array([MixUp(alpha).draw(Draws(9, number), 4, 4)[0] for number in range(6000)])
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)
    # The fourth moment tells distributions of the same variance apart.
    expected = np.random.default_rng(1).beta(alpha, alpha, 200_000)
    assert ((shares - 0.5) ** 4).mean() == pytest.approx(((expected - 0.5) ** 4).mean(), rel=0.1)


def test_tiny_alphas_leave_images_as_they_are() -> None:
    shares = np.array([MixUp(1e-4).draw(Draws(9, number), 4, 4)[0] for number in range(500)])
    assert np.mean(np.minimum(shares, 1 - shares) < 0.01) > 0.98 and 0.4 < shares.mean() < 0.6


def test_mixup_is_that_of_torchvision() -> None:
    images, labels, rows = batch_of(MixUp(0.4))
    share = rows[0, 0]
    assert np.allclose(images, share * IMAGES + (1 - share) * np.roll(IMAGES, 1, 0), atol=1e-6)
    one_hot = np.eye(4)[LABELS]
    assert np.allclose(labels, share * one_hot + (1 - share) * np.roll(one_hot, 1, 0), atol=1e-6)


def test_cutmix_is_that_of_torchvision() -> None:
    for seed in range(20):
        images, labels, rows = batch_of(CutMix(), seed=seed)
        share, _, top, left, bottom, right = (float(value) for value in rows[0])
        expected = IMAGES.copy()
        box = np.s_[:, int(top) : int(bottom), int(left) : int(right)]
        expected[box] = np.roll(IMAGES, 1, 0)[box]
        assert np.array_equal(images, expected)
        assert share == pytest.approx(1 - (bottom - top) * (right - left) / 140)
        one_hot = np.eye(4)[LABELS]
        assert np.allclose(labels, share * one_hot + (1 - share) * np.roll(one_hot, 1, 0), atol=1e-6)


@pytest.mark.parametrize(("way", "name"), [(MixUp(0.7), "MixUp"), (CutMix(0.7), "CutMix")])
def test_torchvision_gives_the_same_with_the_same_draws(way: Any, name: str) -> None:
    torch = pytest.importorskip("torch")
    v2 = pytest.importorskip("torchvision.transforms.v2")
    images, labels, rows = batch_of(way, seed=3)
    share, _, top, left, bottom, right = rows[0].tolist()
    theirs = getattr(v2, name)(num_classes=4)
    params = {"lam": share, "labels": torch.tensor(LABELS), "batch_size": 6}
    if name == "CutMix":
        params |= {"lam_adjusted": share, "box": (int(left), int(top), int(right), int(bottom))}
    expected = theirs.transform(torch.tensor(IMAGES).permute(0, 3, 1, 2), params)
    assert np.allclose(images, expected.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    assert np.allclose(labels, theirs.transform(params["labels"], params).numpy(), atol=1e-6)


def test_boxes_are_drawn_as_torchvision_draws_them() -> None:
    """The mean share and the sides of boxes are those of its algorithm, over many draws."""
    ours = np.array([CutMix().draw(Draws(5, number), 32, 48) for number in range(4000)])
    rng = np.random.default_rng(2)
    theirs = []
    for share, x, y in zip(rng.random(20_000), rng.integers(0, 48, 20_000), rng.integers(0, 32, 20_000), strict=True):
        across, down = int(0.5 * math.sqrt(1 - share) * 48), int(0.5 * math.sqrt(1 - share) * 32)
        theirs.append((max(0, y - down), max(0, x - across), min(32, y + down), min(48, x + across)))
    assert np.allclose(ours[:, 2:].mean(axis=0), np.mean(theirs, axis=0), atol=0.6)
    assert np.allclose(ours[:, 2:].std(axis=0), np.std(theirs, axis=0), atol=0.4)


@pytest.mark.parametrize("way", [MixUp(0.7), CutMix(0.7)])
@pytest.mark.parametrize("framework", ["torch", "tensorflow", "tf.function", "jax", "jit"])
def test_every_framework_gives_the_same(way: Any, framework: str) -> None:
    images, labels, rows = batch_of(way, seed=3)
    if framework == "torch":
        torch = pytest.importorskip("torch")
        arrays = torch.tensor(IMAGES).permute(0, 3, 1, 2), torch.tensor(LABELS), torch.tensor(rows)
        found, found_labels = mixed(*arrays, 4)
        found = found.permute(0, 2, 3, 1)
    elif framework.startswith("t"):
        tf = pytest.importorskip("tensorflow")
        call = tf.function(mixed) if framework == "tf.function" else mixed
        found, found_labels = call(tf.constant(IMAGES), tf.constant(LABELS), tf.constant(rows), 4)
    else:
        jax = pytest.importorskip("jax")
        call = jax.jit(mixed, static_argnums=3) if framework == "jit" else mixed
        found, found_labels = call(jax.numpy.asarray(IMAGES), jax.numpy.asarray(LABELS), jax.numpy.asarray(rows), 4)
    assert np.allclose(np.asarray(found), images, atol=1e-6)
    assert np.allclose(np.asarray(found_labels), labels, atol=1e-6)


def test_half_precision_and_soft_labels_are_kept() -> None:
    torch = pytest.importorskip("torch")
    rows = numbers(CutMix(), 2)
    images = torch.tensor(np.resize(IMAGES, (6, 3, 10, 14)), dtype=torch.bfloat16)
    soft = torch.tensor(np.eye(4, dtype=np.float32)[LABELS])
    found, labels = mixed(images, soft, torch.tensor(rows))
    assert found.dtype == torch.bfloat16 and labels.dtype == torch.float32
    assert torch.allclose(labels.sum(dim=1), torch.ones(6))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_labels_of_any_float_are_mixed_in_tensorflow(dtype: str) -> None:
    import tensorflow as tf

    images, labels = np.zeros((4, 5, 6, 3), np.uint8), np.eye(3, dtype=dtype)[[0, 1, 2, 1]]
    numbers = np.tile(np.array([0.25, 0.25, 0, 0, 5, 6], np.float32), (4, 1))
    _, found = mixed(tf.constant(images), tf.constant(labels), tf.constant(numbers))
    assert found.dtype == dtype
    assert np.array_equal(found.numpy(), 0.25 * labels + 0.75 * np.roll(labels, 1, 0))


def test_integers_become_floats() -> None:
    pixels = (IMAGES * 255).astype(np.uint8)
    found, _ = mixed(pixels, LABELS, numbers(MixUp()), 4)
    assert found.dtype == np.float32 and np.allclose(found / 255, mixed(pixels / 255, LABELS, numbers(MixUp()), 4)[0])


def test_records_without_weight_mix_with_nobody() -> None:
    weights = np.array([1, 1, 0, 1, 1, 0], np.float32)
    rows = mixing_of([MixUp()], Draws(1, 0), 10, 14, weights)
    images, labels = mixed(IMAGES, LABELS, rows, 4)
    same = [np.array_equal(images[place], IMAGES[place]) for place in range(6)]
    assert same == [True, False, True, True, False, True]
    assert (labels.max(axis=1) == 1)[[0, 2, 3, 5]].all() and labels[1].max() < 1
    # In a part of the batch, other records are neighbours: those of weight 0 are still nobody's.
    images, _ = mixed(IMAGES[::2], LABELS[::2], rows[::2], 4)
    assert [np.array_equal(images[place], IMAGES[2 * place]) for place in range(3)] == [False, True, True]


def test_damaged_records_that_are_skipped_mix_with_nobody(jpeg_shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(jpeg_shards, tmp_path / "copy"))
    data = open_dataset(copy).balanced("label", epoch_records=60)
    data.close()
    next(copy.glob("*00001*.tfrecord")).unlink()
    one = data.stream(batch_size=12, image=Resize(8), mixing=MixUp(), on_error="skip")
    for batch in one:
        assert 0 < batch["weight"].sum() < 12
        images, _ = mixed(batch["image"], batch["label"], batch["mixing"], 3)
        alone = (batch["weight"] == 0) | (np.roll(batch["weight"], 1) == 0)
        assert np.array_equal(images[alone], batch["image"][alone]) and not np.array_equal(images, batch["image"])
    assert one.coverage().covers(data.coverage()) and one.coverage().skipped == len(one.skipped) > 20


def stream(path: Path, **options: Any) -> Any:
    ways = [MixUp(0.4), CutMix()]
    return open_dataset(path).stream(**{"batch_size": 12, "image": Resize(8), "mixing": ways, "seed": 3, **options})


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_a_resume_with_other_ranks_draws_the_same(jpeg_shards: Path, workers: str) -> None:
    one = stream(jpeg_shards)
    whole = [list(one) for _ in range(2)]
    assert len({row.tobytes() for batches in whole for batch in batches for row in batch["mixing"][:1]}) > 8
    state = one.state_at(2, 1)
    ranks = [stream(jpeg_shards, rank=rank, world_size=2, workers=workers, threads=1) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(state)
        for expected, batch in zip(whole[1][2:], rank, strict=True):
            assert np.array_equal(batch["mixing"], expected["mixing"][rank.order.rank :: 2])
        rank.close()
    assert one.specs["mixing"].shape == (6,)


def test_the_shares_of_a_whole_batch_are_mixed_as_those_of_ranks(jpeg_shards: Path) -> None:
    """Accelerate hands out the share of each rank of a whole batch."""
    for rank in range(2):
        ranks = stream(jpeg_shards, rank=rank, world_size=2, batch_size=14)
        for whole, own in zip(stream(jpeg_shards, batch_size=14), ranks, strict=True):
            share = {name: values[rank::2] for name, values in whole.items()}
            found, expected = (mixed(one["image"], one["label"], one["mixing"], 3) for one in (share, own))
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_images_and_labels_stay_as_they_are(jpeg_shards: Path) -> None:
    with_mixing, without = stream(jpeg_shards), stream(jpeg_shards, mixing=None)
    for one, other in zip(with_mixing, without, strict=True):
        assert set(one) - set(other) == {"mixing"}
        assert all(np.array_equal(one[name], other[name]) for name in other)


def test_batches_of_every_adapter_have_the_numbers(jpeg_shards: Path) -> None:
    tf_data = pytest.importorskip("shard_reader.tf_data")
    expected = [batch["mixing"] for batch in stream(jpeg_shards)]
    found = [batch["mixing"].numpy() for batch in tf_data.as_dataset(stream(jpeg_shards))]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    torch_adapter = pytest.importorskip("shard_reader.torch")
    found = [batch["mixing"].numpy() for batch in torch_adapter.StreamDataset(stream(jpeg_shards))]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


ERRORS = {
    "alpha": (lambda path: MixUp(0), ValueError, "alpha=0: must be above 0"),
    "infinite": (lambda path: CutMix(math.inf), ValueError, "alpha=inf: must be above 0, and at most"),
    "text": (lambda path: MixUp("1"), TypeError, "alpha='1': must be a number"),  # type: ignore[arg-type]
    "number": (lambda path: stream(path, mixing=0.2), TypeError, r"mixing=0\.2: must be MixUp, CutMix, or a list"),
    "class": (lambda path: stream(path, mixing=[MixUp]), TypeError, "must be MixUp, CutMix, or a list"),
    "stored": (lambda path: stream(path, decode=False, image=None), ValueError, "take decode=True"),
    "large": (lambda path: MixUp(1e300), ValueError, r"alpha=1e\+300: must be above 0, and at most 1,000,000"),
    "left out": (
        lambda path: pytest.importorskip("shard_reader.torch").StreamDataset(stream(path), inputs="image"),
        ValueError,
        r"its numbers are in no part of the elements, inputs='image'",
    ),
    "image": (lambda path: stream(path, fields=("label",)), ValueError, "mixes 'image', which is not among fields="),
    "classes": (lambda path: mixed(IMAGES, LABELS, numbers(MixUp())), ValueError, "num_classes=None: must be"),
    "label": (lambda path: mixed(IMAGES, LABELS, numbers(MixUp()), 3), ValueError, "num_classes=3: there is a label 3"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_wrong_argument_is_one_clear_error(jpeg_shards: Path, name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        call(jpeg_shards)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, bool])
def test_labels_of_small_types_are_mixed_as_others(kind: Any) -> None:
    rows = numbers(MixUp(0.4))
    assert np.allclose(mixed(IMAGES, np.eye(4)[LABELS].astype(kind), rows)[1], mixed(IMAGES, LABELS, rows, 4)[1])
    if kind is not bool:
        assert np.allclose(mixed(IMAGES, LABELS.astype(kind), rows, 300)[1].sum(axis=1), 1)
