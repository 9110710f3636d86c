"""Transforms of Albumentations in a stream give the pixels that they give by hand, in any thread."""

from __future__ import annotations

import os
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.libraries import global_states, picture, same_states

from shard_reader import Draws
from shard_reader.transforms.compose import compose

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the web for its newest version
A = pytest.importorskip("albumentations")

PIPELINES = {
    "crops and flips": A.Compose([A.RandomResizedCrop((24, 20)), A.HorizontalFlip(), A.VerticalFlip()]),
    "colours": A.Compose([A.RandomBrightnessContrast(), A.HueSaturationValue(p=1), A.GaussNoise(p=1)]),
    "containers": A.Compose([A.OneOf([A.Blur(p=1), A.CLAHE(p=1)], p=1), A.SomeOf([A.Transpose(), A.Rotate()], 1)]),
    "to floats": A.Compose([A.RandomCrop(20, 31), A.Normalize()]),
    "distortions": A.Compose([A.ElasticTransform(p=1), A.GridDistortion(p=1), A.CoarseDropout(p=1)]),
    "one": A.RandomCrop(20, 20),
    "a container alone": A.OneOf([A.HorizontalFlip(p=1), A.VerticalFlip(p=1)], p=1),
}


class OfItsOwn(A.ImageOnlyTransform):  # type: ignore[misc, name-defined]
    """A class that draws as the library asks for."""

    def apply(self, img: NDArray[Any], **params: Any) -> NDArray[Any]:
        return np.clip(img + self.random_generator.integers(0, 9) + self.py_random.randint(0, 9), 0, 255).astype(
            "uint8"
        )


class OfTheProcess(A.ImageOnlyTransform):  # type: ignore[misc, name-defined]
    """A class that draws from NumPy's global generator."""

    def apply(self, img: NDArray[Any], **params: Any) -> NDArray[Any]:
        return np.clip(img + np.random.randint(0, 50), 0, 255).astype("uint8")


def by_hand(transform: Any, draws: Draws, **given: Any) -> dict[str, Any]:
    """What the library gives with the generators that a record has."""
    seed = draws.child(0).integer(1 << 64)
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    found: dict[str, Any] = transform(**given)
    return found


@pytest.mark.parametrize("name", PIPELINES)
def test_the_pixels_are_those_of_a_call_by_hand(name: str) -> None:
    transform, image = PIPELINES[name], picture()
    chain = compose(transform)
    for position in range(4):
        found, expected = chain(image, Draws(1, position)), by_hand(transform, Draws(1, position), image=image)["image"]
        assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_tensors_become_arrays() -> None:
    pytest.importorskip("torch")
    transform = A.Compose(
        [A.RandomCrop(20, 31), A.Normalize(), pytest.importorskip("albumentations.pytorch").ToTensorV2()]
    )
    expected = by_hand(transform, Draws(1, 2), image=picture())["image"]
    found = compose(transform)(picture(), Draws(1, 2))
    assert found.dtype == np.float32 and np.array_equal(found, expected.permute(1, 2, 0).numpy())


def test_two_flips_do_not_always_agree() -> None:
    """As with a seed for each transform, which the library's own `set_random_seed` sets."""
    chain = compose(A.Compose([A.HorizontalFlip(), A.VerticalFlip()]))
    image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    assert {int(chain(image, Draws(1, position))[0, 0, 0]) for position in range(40)} == {0, 1, 2, 3}


def test_threads_give_what_one_thread_gives() -> None:
    chain, image = compose(PIPELINES["containers"]), picture()
    expected = [chain(image, Draws(1, position)) for position in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda position: chain(image, Draws(1, position)), reversed(range(40))))
    assert all(map(np.array_equal, expected, reversed(found)))
    assert not chain.draws_globally and not chain.needs_processes and chain.is_random and chain.joins


def test_global_generators_and_the_transform_stay_as_they_are() -> None:
    transform = A.Compose([A.RandomCrop(20, 20), A.GaussNoise(p=1)], seed=1)
    before, own = global_states(), transform.py_random.getstate()
    compose(transform)(picture(), Draws(1, 0))
    assert same_states(before, global_states()) and own == transform.py_random.getstate()


@pytest.mark.parametrize(
    ("transform", "is_random", "is_global"),
    [
        (A.Compose([A.Resize(20, 20), A.Normalize()]), False, False),
        (A.Compose([A.Resize(20, 20), A.Normalize()], p=0.5), True, False),
        (A.Compose([A.HorizontalFlip(p=1)]), False, False),
        (A.Compose([A.HorizontalFlip()]), True, False),
        (A.Compose([OfItsOwn(p=1)]), True, False),
        (A.Compose([OfTheProcess(p=1)]), True, True),
        (OfTheProcess(p=1), True, True),
    ],
    ids=["fixed", "maybe", "always", "flip", "own", "process", "alone"],
)
def test_what_a_transform_draws_from_is_known(transform: Any, is_random: bool, is_global: bool) -> None:
    chain, image = compose(transform), picture()
    assert (chain.is_random, chain.draws_globally, chain.needs_processes) == (is_random, is_global, is_global)
    before = global_states()
    first, second, again = (chain(image, Draws(1, position)) for position in (0, 1, 0))
    assert np.array_equal(first, again) and same_states(before, global_states())
    assert np.array_equal(first, second) or is_random


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_and_transparent_images_and_those_of_16_bits_keep_their_pixels(dtype: str, channels: int) -> None:
    image = picture(33, 45, channels, dtype)
    image.flags.writeable = False
    found = compose(A.Compose([A.RandomCrop(31, 29), A.HorizontalFlip(), A.Resize(17, 20)]))(image, Draws(1, 0))
    assert found.shape == (17, 20, channels) and found.dtype == dtype and found.max() > 0
    swapped = image.astype(image.dtype.newbyteorder(">"))
    assert np.array_equal(compose(A.CenterCrop(9, 9))(swapped), compose(A.CenterCrop(9, 9))(image))


def test_a_compose_that_declares_boxes_takes_images_alone() -> None:
    declared = A.Compose(
        [A.RandomCrop(20, 20)],
        bbox_params=A.BboxParams("coco", label_fields=["labels"]),
        keypoint_params=A.KeypointParams("xy", label_fields=["names"]),
    )
    assert compose(declared)(picture(), Draws(1, 0)).shape == (20, 20, 3)


def test_an_error_of_the_library_continues_the_image() -> None:
    with pytest.raises(ValueError, match=r"^is refused by Compose: Crop size .* exceeds image") as caught:
        compose(A.Compose([A.RandomCrop(99, 99)]))(picture(), Draws(1, 0))
    assert "\n" not in str(caught.value)


def test_a_chain_is_pickled_with_its_transforms() -> None:
    chain = compose(PIPELINES["crops and flips"])
    other = pickle.loads(pickle.dumps(chain))
    assert np.array_equal(chain(picture(), Draws(1, 0)), other(picture(), Draws(1, 0)))
    assert repr(other) == repr(chain) and "\n" not in repr(chain)


def test_a_mask_of_its_own_keeps_its_values() -> None:
    mask = (picture(channels=1) > 100).astype(np.uint16) * 2000
    chain = compose(A.Compose([A.Rotate(p=1), A.Resize(90, 77)])).by_nearest(keeps_values=False)
    found = chain(mask, Draws(1, 0))
    assert found.shape == (90, 77, 1) and found.dtype == np.uint16 and set(np.unique(found)) == {0, 2000}


def test_a_generator_in_a_function_is_named() -> None:
    rng = np.random.default_rng(0)

    def noisy(image: NDArray[Any], **params: Any) -> NDArray[Any]:
        return np.clip(image + rng.integers(0, 9), 0, 255).astype(np.uint8)

    with pytest.warns(UserWarning, match=r"^Compose.*: keeps a random generator of its own \(numpy.random._generator"):
        compose(A.Compose([A.Lambda(image=noisy, name="noise")]))
    nameless = A.Compose([A.Lambda(image=np.fliplr)])  # whose repr raises
    assert repr(compose(nameless)) == "[albumentations.core.composition.Compose]"
