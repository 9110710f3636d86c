"""Transforms of torchvision and timm in a stream give the pixels that they give by hand."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.libraries import global_states, picture, same_states, seeded_by_hand

from shard_reader import Draws, Flip, RandomResizedCrop
from shard_reader.transforms.compose import compose

torch = pytest.importorskip("torch")
v1 = pytest.importorskip("torchvision.transforms")
v2 = pytest.importorskip("torchvision.transforms.v2")

to_float = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.2] * 3)]

OF_TENSORS = {
    "crops and flips": v2.Compose([v2.RandomResizedCrop(24), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]),
    "to floats": v2.Compose([v2.ToImage(), v2.RandomCrop((20, 31)), *to_float]),
    "colours": v2.Compose([v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.RandomGrayscale(0.5), v2.GaussianBlur(3)]),
    "a choice": v2.RandomChoice([v2.RandomRotation(30), v2.RandomAffine(10, (0.1, 0.1)), v2.RandomInvert(1)]),
    "nested": v2.Compose([v2.RandomApply([v2.Compose([v2.RandomCrop(33)])]), v2.Resize((16, 18)), v2.RandomErasing(1)]),
    "one": v2.RandomPhotometricDistort(p=1.0),
    "a policy": v2.Compose([v2.AutoAugment(), v2.TrivialAugmentWide()]),
    "first to Pillow": v2.Compose([v2.ToPILImage(), v2.RandomCrop(20), v2.ToImage()]),
    "v1 of tensors": v1.Compose([v1.ConvertImageDtype(torch.float32), v1.RandomErasing(1), v1.RandomCrop(30)]),
    "v1 erasing": v1.RandomErasing(1),
    "v1 of tensors, later": v1.Compose([v1.RandomCrop(30), v1.ConvertImageDtype(torch.float32)]),
    "v2 of tensors, later": v2.Compose([v2.RandomCrop(30), v2.RandomErasing(1), v2.ToImage()]),
    "a Sequential": torch.nn.Sequential(v1.ConvertImageDtype(torch.float32), v1.RandomCrop(30), v1.Normalize(0.5, 0.2)),
}
OF_PILLOW = {
    "as ImageFolder": v1.Compose([v1.RandomResizedCrop(24), v1.RandomHorizontalFlip(), v1.ToTensor()]),
    "evaluation": v1.Compose([v1.Resize(30), v1.CenterCrop(24), v1.ToTensor(), v1.Normalize([0.5] * 3, [0.2] * 3)]),
    "v1 colours": v1.Compose([v1.ColorJitter(0.4, 0.4, 0.4, 0.1), v1.RandomRotation(9), v1.PILToTensor()]),
    "v1 policy": v1.Compose([v1.RandAugment(), v1.RandomCrop(30)]),
    "v2, converted later": v2.Compose([v2.RandomResizedCrop(24), v2.ToImage(), *to_float]),
    "mixed versions": v1.Compose([v2.RandomCrop(20), v1.ToTensor(), v2.RandomErasing(1)]),
    "one of v1": v1.RandomCrop(20),
}


def pixels_of(result: Any) -> NDArray[Any]:
    """What a library gives, as `[height, width, channels]`."""
    if isinstance(result, torch.Tensor):
        return result.permute(1, 2, 0).numpy()
    array = np.asarray(result)
    return array[..., np.newaxis] if array.ndim == 2 else array


def as_tensor(image: NDArray[Any]) -> Any:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("transform", "given"),
    [
        *(pytest.param(transform, as_tensor, id=name) for name, transform in OF_TENSORS.items()),
        *(pytest.param(transform, Image.fromarray, id=name) for name, transform in OF_PILLOW.items()),
    ],
)
def test_the_pixels_are_those_of_a_call_by_hand(transform: Any, given: Any) -> None:
    chain, image = compose(transform), picture()
    for position in range(4):
        found = chain(image, Draws(1, position))
        with seeded_by_hand(Draws(1, position).child(0)):
            expected = pixels_of(transform(given(image)))
        assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_an_image_of_torchvision_is_one_for_it() -> None:
    """So that a transform of tensors alone, as ToDtype, scales it."""
    seen: list[Any] = []
    compose(v2.Lambda(lambda image: seen.append(image) or image))(picture(), Draws(1, 0))
    assert type(seen[0]).__name__ == "Image" and seen[0].shape == (3, 41, 57)


@pytest.mark.parametrize(
    ("transform", "is_random"),
    [
        (v2.Compose([v2.Resize(30), v2.CenterCrop(24), v2.ToImage(), *to_float]), False),
        (v1.Compose([v1.Resize(30), v1.Pad(2), v1.Grayscale(), v1.ToTensor()]), False),
        (v2.Compose([v2.Compose([v2.Resize(30)]), v2.ToPureTensor()]), False),
        (v2.Compose([v2.Resize(30), v2.RandomHorizontalFlip()]), True),
        (v2.RandomApply([v2.Resize(30)]), True),
        (v2.Compose([v2.Resize(30), lambda image: image]), True),  # nobody knows
        (v2.Lambda(lambda image: image), True),
        (torch.nn.Sequential(v1.CenterCrop(20)), False),
    ],
    ids=["v2", "v1", "nested", "flip", "apply", "function", "lambda", "sequential"],
)
def test_what_draws_nothing_needs_no_processes(transform: Any, is_random: bool) -> None:
    chain = compose(transform)
    assert chain.is_random == chain.draws_globally == chain.needs_processes == is_random


def test_a_class_of_the_user_counts_as_random() -> None:
    class Own(v2.Resize):
        pass

    assert compose(Own(20)).draws_globally and compose(Own(20)).joins


def test_version_2_takes_whole_records_where_it_is_the_last() -> None:
    assert compose([Flip(), v2.RandomCrop(9)]).joins
    assert not compose([v2.RandomCrop(9), Flip()]).joins
    assert not compose(v1.RandomCrop(9)).joins


def test_a_call_leaves_global_generators_as_they_were() -> None:
    torch.manual_seed(5)
    before = global_states()
    compose([v2.RandomCrop(20), v1.ColorJitter(0.4)])(picture(), Draws(1, 2))
    assert same_states(before, global_states())


def test_the_same_draws_give_the_same_pixels_and_others_do_not() -> None:
    chain, image = compose([RandomResizedCrop(40), v2.Compose([v2.RandomCrop(24), v2.ColorJitter(0.5)])]), picture()
    found = [chain(image, Draws(1, position)) for position in (0, 1, 0)]
    assert np.array_equal(found[0], found[2]) and not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], chain(image, Draws(2, 0)))


def test_each_of_several_has_draws_of_its_own() -> None:
    """Two flips in a list do not always agree, and do not shift the draws of this package's transforms."""
    image = np.array([[[0], [1]]], np.uint8)
    flips = [v2.RandomHorizontalFlip(), v2.RandomHorizontalFlip()]
    assert len({compose(flips)(image, Draws(1, position))[0, 0, 0] for position in range(20)}) == 2
    for position in range(5):
        alone = compose(Flip())(image, Draws(1, position))
        assert np.array_equal(compose([v2.ColorJitter(0), Flip()])(image, Draws(1, position)), alone)


@pytest.mark.parametrize(
    ("image", "transform", "shape", "dtype"),
    [
        (picture(channels=1), v2.RandomCrop(20), (20, 20, 1), "uint8"),
        (picture(channels=4), v2.RandomCrop(20), (20, 20, 4), "uint8"),
        (picture(channels=1), v1.RandomCrop(20), (20, 20, 1), "uint8"),
        (picture(channels=4), v1.RandomCrop(20), (20, 20, 4), "uint8"),
        (picture(channels=1, dtype="uint16"), v1.RandomCrop(20), (20, 20, 1), "uint16"),
        (picture(channels=1, dtype="float32"), v1.RandomCrop(20), (20, 20, 1), "float32"),
        (picture(dtype="uint16"), v2.RandomCrop(20), (20, 20, 3), "uint16"),
        (picture(dtype="uint16"), v2.ToDtype(torch.float32, scale=True), (41, 57, 3), "float32"),
        (picture(dtype="float32"), v2.RandomCrop(20), (20, 20, 3), "float32"),
        (picture(dtype="float16"), v2.CenterCrop(20), (20, 20, 3), "float16"),
        (picture(dtype="uint16").astype(">u2"), v2.CenterCrop(20), (20, 20, 3), "uint16"),
        (picture(1, 1), v2.Resize((3, 5)), (3, 5, 3), "uint8"),
        (picture(), v1.Compose([v1.Grayscale()]), (41, 57, 1), "uint8"),
    ],
    ids=lambda value: str(getattr(value, "dtype", value)),
)
def test_grey_and_transparent_images_and_those_of_16_bits_keep_their_pixels(
    image: NDArray[Any], transform: Any, shape: tuple[int, ...], dtype: str
) -> None:
    found = compose(transform)(image, Draws(1, 0))
    assert found.shape == shape and found.dtype == dtype
    assert found.max() > 0


def test_a_read_only_image_stays_as_it_is() -> None:
    image = picture()
    kept = image.copy()
    image.flags.writeable = False
    compose(v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0], [1], inplace=True)]))(image)
    floats = picture(dtype="float32")
    before = floats.copy()
    compose(v2.Normalize([0.5], [2], inplace=True))(floats)
    assert np.array_equal(image, kept) and np.array_equal(floats, before)


def test_timm_gives_what_it_gives_by_hand() -> None:
    create = pytest.importorskip("timm.data").create_transform
    options: dict[str, Any] = {"is_training": True, "auto_augment": "rand-m9-mstd0.5", "re_prob": 0.25}
    image = picture(90, 80)
    for transform in (create(32, **options), create(32, **options, use_prefetcher=True), create(32)):
        chain = compose(transform)
        for position in range(3):
            with seeded_by_hand(Draws(1, position).child(0)):
                expected = pixels_of(transform(Image.fromarray(image)))
            assert np.array_equal(chain(image, Draws(1, position)), expected)
    assert compose(create(32, **options)).draws_globally and not compose(create(32)).draws_globally
    three = compose(create(32, **options, separate=True))
    assert len(three.steps) == 3 and three(image, Draws(1, 0)).shape == (32, 32, 3)


def test_the_transforms_of_a_model_s_weights_are_those_of_an_evaluation() -> None:
    weights = pytest.importorskip("torchvision.models").ResNet18_Weights.DEFAULT.transforms()
    found = compose(weights)(picture(300, 260))
    assert found.shape == (224, 224, 3) and not compose(weights).is_random
    assert np.array_equal(found, pixels_of(weights(Image.fromarray(picture(300, 260)))))


def test_a_message_of_many_lines_becomes_one() -> None:
    def refuses(image: Any) -> Any:
        raise ValueError(f"no\n{'pixels ' * 200}")

    with pytest.raises(ValueError, match=r"^is refused by Lambda: no pixels pixels .*\.\.\.$") as caught:
        compose(v2.Lambda(refuses))(picture(), Draws(1, 0))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("image", "transform", "message"),
    [
        (
            picture(dtype="uint16"),
            v1.RandomCrop(9),
            "is of uint16 with 3 channels, and Pillow has no such images: take",
        ),
        (picture(), v2.FiveCrop(9), "becomes tuple: transforms must give one image, a tensor, an array or an image"),
        (picture(), v2.ToDtype(torch.bfloat16), "becomes a tensor of bfloat16, which NumPy does not have"),
        (picture(), v2.Lambda(lambda image: image[None]), "becomes an array of 4 dimensions: transforms must give one"),
    ],
    ids=["uint16", "five", "bfloat16", "batch"],
)
def test_what_is_no_image_is_one_line(image: NDArray[Any], transform: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        compose(transform)(image, Draws(1, 0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [v2.MixUp, v2.CutMix])
def test_a_transform_of_batches_is_refused_at_once(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"mixes the images and labels of a batch, .*: call it in the loop"):
        compose(v2.Compose([v2.Resize((9, 9)), kind(num_classes=3)]))


def test_a_chain_is_pickled_with_its_transforms() -> None:
    chain = compose([Flip(), v2.Compose([v2.RandomCrop(20), v2.ToDtype(torch.float32, scale=True)])])
    for one in (chain, chain.seeded()):
        other = pickle.loads(pickle.dumps(one))
        assert other.is_seeded == one.is_seeded and repr(other) == repr(one)
        assert np.array_equal(one(picture(), Draws(1, 0)), other(picture(), Draws(1, 0)))
    assert "\n" not in repr(chain) and "RandomCrop(size=(20, 20)" in repr(chain)


def test_a_mask_of_its_own_keeps_its_values() -> None:
    mask = (picture(channels=1) > 100).astype(np.uint8) * 200
    chain = compose(v2.Compose([v2.RandomRotation(40), v2.Resize((90, 77))])).by_nearest(keeps_values=False)
    found = chain(mask, Draws(1, 0))
    assert found.shape == (90, 77, 1) and found.dtype == np.uint8 and set(np.unique(found)) == {0, 200}
    with pytest.raises(ValueError, match="may mix the values of a mask: take torchvision"):
        compose(v1.Resize(9)).by_nearest(keeps_values=False)


def test_recognition_imports_nothing() -> None:
    code = (
        "import sys; from shard_reader.transforms.compose import compose; before = set(sys.modules);"
        " compose([lambda image: image, max, str.upper]); print(sorted(set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (v2.functional.hflip, as_tensor),
        (functools.partial(v2.functional.resize, size=[20, 30]), as_tensor),
        (functools.partial(v1.functional.adjust_gamma, gamma=2.0), as_tensor),
        (v1.functional.to_tensor, Image.fromarray),
        (v2.functional.pil_to_tensor, Image.fromarray),
    ],
    ids=["flip", "resize", "gamma", "to_tensor", "pil_to_tensor"],
)
def test_functions_of_torchvision_get_what_they_expect(function: Any, given: Any) -> None:
    chain, image = compose(function), picture()
    assert not chain.is_random and not chain.draws_globally
    assert np.array_equal(chain(image), pixels_of(function(given(image))))
    again = pickle.loads(pickle.dumps(chain))
    assert np.array_equal(again(image), chain(image))
