"""Functions of images of Pillow in a stream, and guesses about functions that draw."""

from __future__ import annotations

import functools
import os
import pickle
import random
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from support.libraries import global_states, picture, same_states, seeded_by_hand

from shard_reader import Draws, Flip
from shard_reader.transforms import OfPil
from shard_reader.transforms.compose import compose
from shard_reader.transforms.libraries.generators import seeded


def turned(image: Image.Image) -> Image.Image:
    return image.rotate(90, expand=True)


def turned_unknown(image):  # type: ignore[no-untyped-def]
    return image.rotate(90, expand=True)


def brighter(image: Image.Image, most: float = 1.5) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(random.uniform(0.5, most))


class Turner:
    def __call__(self, image: Image.Image) -> Image.Image:
        return image.rotate(90, expand=True)


def of_arrays(image: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.rot90(image))


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(ImageOps.autocontrast, id="Pillow"),
        pytest.param(functools.partial(ImageOps.posterize, bits=3), id="partial"),
        pytest.param(turned, id="annotated"),
        pytest.param(Turner(), id="callable object"),
        pytest.param(OfPil(turned_unknown), id="OfPil"),
    ],
)
def test_a_function_of_pillow_gets_an_image_of_pillow(function: Any) -> None:
    image, called = picture(), getattr(function, "original", function)
    found = compose(function)(image)
    assert np.array_equal(found, np.asarray(called(Image.fromarray(image))))
    assert not compose(function).is_random
    other = pickle.loads(pickle.dumps(compose(function)))
    assert np.array_equal(other(image), found) and repr(other) == repr(compose(function))


def test_other_functions_get_arrays() -> None:
    assert np.array_equal(compose(of_arrays)(picture()), np.rot90(picture()))
    assert repr(compose([of_arrays, OfPil(turned_unknown)])).count("turned_unknown") == 1


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (picture(channels=1), "L"),
        (picture(), "RGB"),
        (picture(channels=4), "RGBA"),
        (picture(channels=1, dtype="uint16"), "I;16"),
        (picture(channels=1, dtype="float32"), "F"),
    ],
    ids=["grey", "RGB", "RGBA", "16 bits", "floats"],
)
def test_images_have_the_modes_of_pillow(image: NDArray[Any], mode: str) -> None:
    seen = []
    found = compose(OfPil(lambda given: seen.append(given.mode) or given))(image)
    assert seen == [mode] and np.array_equal(found, image)


def test_a_palette_becomes_its_colours() -> None:
    found = compose(OfPil(lambda image: image.quantize(4)))(picture())
    assert found.shape == (41, 57, 3) and len(np.unique(found.reshape(-1, 3), axis=0)) == 4


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: OfPil("flip"), TypeError, r"OfPil\('flip'\): expected a function of an image of Pillow"),
        (
            lambda: compose(turned)(picture(dtype="uint16")),
            ValueError,
            "is of uint16 with 3 channels, and Pillow has no",
        ),
        (
            lambda: compose(OfPil(lambda image: None))(picture()),
            ValueError,
            "becomes NoneType: transforms must give one",
        ),
    ],
    ids=["no function", "uint16", "None"],
)
def test_errors_are_one_line(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_function_that_draws_gets_the_seed_of_its_record() -> None:
    chain, image = compose(brighter), picture()
    assert chain.draws_globally and not chain.needs_processes
    before = global_states()
    found = chain(image, Draws(1, 3))
    assert same_states(before, global_states())
    with seeded_by_hand(Draws(1, 3).child(0)):
        assert np.array_equal(found, np.asarray(brighter(Image.fromarray(image))))


def python(image: NDArray[Any]) -> NDArray[Any]:
    return image if random.random() < 0.5 else image[::-1]


def numpy_(image: NDArray[Any]) -> NDArray[Any]:
    return (image * np.random.uniform(0.5, 1)).astype(np.uint8)


def inside(image: NDArray[Any]) -> NDArray[Any]:
    def other() -> float:
        return random.gauss(0, 1)

    return image + np.uint8(other() > 0)


def imported(image: NDArray[Any]) -> NDArray[Any]:
    from random import choice

    return choice([image, image[::-1]])


def named(image: NDArray[Any]) -> NDArray[Any]:
    return python(image)


def own_draws(image: NDArray[Any]) -> NDArray[Any]:
    return image + np.uint8(Random().random() > 1)


class Random:
    """Nothing of `random`."""

    def random(self) -> float:
        return 0.0


class Object:
    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        return self.turned(image)

    def turned(self, image: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = self.function(image)
        return found


@pytest.mark.parametrize(
    ("function", "draws"),
    [
        (python, True),
        (numpy_, True),
        (inside, True),
        (imported, True),
        (named, True),
        (functools.partial(python), True),
        (lambda image: numpy_(image), True),
        (Object(python), True),
        (Object(python).turned, True),
        (random.choice, True),
        (np.random.permutation, True),
        (Object(of_arrays), False),
        (own_draws, False),
        (of_arrays, False),
        (np.fliplr, False),
        (np.negative, False),
        (str.upper, False),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__) if callable(value) else str(value),
)
def test_a_guess_says_whether_a_function_draws(function: Any, draws: bool) -> None:
    chain = compose(function)
    assert chain.draws_globally == draws and not chain.needs_processes and not chain.is_random


def test_functions_of_torch_that_draw_are_found() -> None:
    torch = pytest.importorskip("torch")
    v2 = pytest.importorskip("torchvision.transforms.v2")
    crop = v2.RandomCrop(9)
    assert compose(lambda image: torch.rand(3)).draws_globally
    assert compose(lambda image: torch.from_numpy(image).uniform_()).draws_globally
    assert compose(lambda image: crop(torch.from_numpy(image))).draws_globally
    assert not compose(lambda image: torch.from_numpy(image).flip(0).numpy()).draws_globally


def test_a_seeded_chain_gives_each_function_the_seed_of_its_record() -> None:
    image, chain = picture(), compose([python, numpy_, Flip()]).seeded()
    assert chain.is_random and chain.is_seeded and chain.seeded() is chain
    before = global_states()
    for position in range(4):
        found = chain(image, Draws(1, position))
        expected = image
        for number, function in enumerate((python, numpy_)):
            with seeded_by_hand(Draws(1, position).child(number)):
                expected = function(expected)
        # The draws of this package's transforms are the same as without.
        assert np.array_equal(found, Flip()(expected, Draws(1, position)))
    assert same_states(before, global_states())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_is_forked_does_not_wait_for_a_thread_of_its_parent() -> None:
    is_seeded, is_over = threading.Event(), threading.Event()

    def holds() -> None:
        with seeded(Draws(1, 0)):
            is_seeded.set()
            is_over.wait()

    thread = threading.Thread(target=holds)
    thread.start()
    is_seeded.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # instead of waiting for ever
        with seeded(Draws(1, 1)):
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    is_over.set()
    thread.join()
    assert status == 0


def test_a_generator_of_its_own_is_named() -> None:
    rng = random.Random(0)

    def noisy(image: NDArray[Any]) -> NDArray[Any]:
        return image + np.uint8(rng.random() > 0.5)

    makers = [lambda: noisy, lambda: OfPil(noisy), lambda: Object(rng), lambda: Object(np.random.default_rng(0))]
    for make in makers:
        with pytest.warns(UserWarning, match="keeps a random generator of its own") as caught:
            compose(make())
        assert len(caught) == 1 and "\n" not in str(caught[0].message)
