"""Layers of Keras in a stream give the pixels that they give by hand, in any thread and with any backend."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.libraries import global_states, picture, same_states

from shard_reader import Draws
from shard_reader.transforms.compose import compose

keras = pytest.importorskip("keras")
layers = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@keras.saving.register_keras_serializable()
class Shift(layers.Layer):  # type: ignore[misc, name-defined]
    """A layer of the user, which draws as Keras asks for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, images: Any) -> Any:
        return keras.ops.cast(images, "float32") + keras.random.uniform((1,), 0, 9, seed=self.seeds)


class Unknown(layers.Layer):  # type: ignore[misc, name-defined]
    """A layer that cannot be made of its configuration."""

    def __init__(self, strength: Any) -> None:
        super().__init__()
        self.strength = strength


def adapted() -> Any:
    layer = layers.Normalization()
    layer.adapt(picture(dtype="float32")[np.newaxis])
    return layer


LAYERS = {
    "a Sequential": lambda: keras.Sequential(
        [layers.RandomFlip(), layers.RandomRotation(0.1), layers.Resizing(20, 24)]
    ),
    "one": lambda: layers.RandomContrast(0.4),
    "a pipeline": lambda: layers.Pipeline([layers.RandomCrop(20, 24), layers.RandomBrightness(0.3)]),
    "with seeds": lambda: keras.Sequential([layers.RandomFlip(seed=1), layers.RandomTranslation(0.1, 0.1, seed=1)]),
    "a class of the user": lambda: keras.Sequential([Shift(), layers.RandomFlip()]),
}
FIXED = {
    "sizes": lambda: keras.Sequential([layers.Resizing(30, 30), layers.CenterCrop(20, 20), layers.Rescaling(1 / 255)]),
    "with weights": adapted,
}


def by_hand(layer: Any, image: NDArray[Any], draws: Draws | None) -> NDArray[Any]:
    """What a layer gives in training, as in `tf.data`, with the seeds that a record has."""
    if draws is not None:
        for part in layer._flatten_layers():
            for generator in part._seed_generators:
                generator.state.assign([1 + draws.integer((1 << 31) - 1), 0])
    batch = image[np.newaxis].astype("float32")
    found = layer(batch, training=True) if layer._call_has_training_arg else layer(batch)
    return np.asarray(keras.ops.convert_to_numpy(found))[0]


@pytest.mark.parametrize("name", LAYERS)
def test_the_pixels_are_those_of_a_call_by_hand(name: str) -> None:
    layer = LAYERS[name]()
    chain, image = compose(layer), picture()
    for position in (0, 1):
        found = chain(image, Draws(1, position))
        assert np.array_equal(found, by_hand(layer, image, Draws(1, position).child(0)))
    assert found.dtype == np.float32 and not np.array_equal(found, chain(image, Draws(1, 0)))
    assert chain.is_random and not chain.draws_globally and not chain.joins


@pytest.mark.parametrize("name", FIXED)
def test_layers_that_draw_nothing_are_not_random(name: str) -> None:
    layer, image = FIXED[name](), picture(dtype="float32")
    assert not compose(layer).is_random
    assert np.array_equal(compose(layer)(image), by_hand(layer, image, None))


def test_threads_give_what_one_thread_gives() -> None:
    layer = LAYERS["a Sequential"]()
    chain, images = compose(layer), [picture(30 + number, 50 - number, seed=number) for number in range(6)]
    expected = [chain(image, Draws(1, number)) for number, image in enumerate(images)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda number: chain(images[number], Draws(1, number)), range(6)))
    assert all(map(np.array_equal, expected, found))


def test_global_generators_and_the_layer_stay_as_they_are() -> None:
    layer = layers.RandomContrast(0.4)
    chain = compose(layer)
    chain(picture(), Draws(1, 0))  # its clone is made
    before, own = global_states(), np.array(keras.ops.convert_to_numpy(layer.generator.state))
    chain(picture(), Draws(1, 1))
    assert same_states(before, global_states())
    assert np.array_equal(own, keras.ops.convert_to_numpy(layer.generator.state))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_and_transparent_images_keep_their_channels(channels: int) -> None:
    image = picture(33, 45, channels)
    image.flags.writeable = False
    assert compose(layers.RandomCrop(20, 21))(image, Draws(1, 0)).shape == (20, 21, channels)


def test_channels_first_are_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"RandomFlip.*: expects channels first, and images of a stream have"
    ) as caught:
        compose(keras.Sequential([layers.RandomFlip(data_format="channels_first")]))
    assert "\n" not in str(caught.value)


def test_a_layer_that_cannot_be_copied_is_named_at_once() -> None:
    with pytest.raises(TypeError, match=r"Unknown.*: cannot be copied for each thread, by get_config"):
        compose(Unknown(object()))


def test_a_layer_that_draws_from_the_generators_of_the_process_is_known() -> None:
    chain = compose(keras.Sequential([layers.Resizing(20, 20), layers.AugMix()]))
    assert chain.needs_processes
    before = global_states()
    first, other, same = (chain(picture(), Draws(1, place)) for place in (0, 1, 0))
    assert np.array_equal(first, same) and not np.array_equal(first, other)
    assert same_states(before, global_states())


@pytest.mark.parametrize("kind", [layers.MixUp, layers.CutMix])
def test_a_layer_of_batches_is_refused_at_once(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"mixes the images and labels of a batch, .*: call it in the loop"):
        compose(keras.Sequential([layers.Resizing(20, 20), kind()]))


def test_weights_that_a_first_call_would_make_are_refused() -> None:
    layer = keras.Sequential([layers.Resizing(20, 20), layers.Conv2D(3, 3)])
    with pytest.raises(ValueError, match="makes at random in its first call: call it once"):
        compose(layer)(picture(), Draws(1, 0))
    layer(picture(dtype="float32")[np.newaxis])
    assert np.array_equal(compose(layer)(picture()), compose(layer)(picture()))


def test_a_chain_is_pickled_with_its_layers() -> None:
    chain = compose(LAYERS["a pipeline"]())
    assert np.array_equal(pickle.loads(pickle.dumps(chain))(picture(), Draws(1, 0)), chain(picture(), Draws(1, 0)))


BACKENDS = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = ["tests"]
import keras, json, numpy as np
from support.libraries import picture
from shard_reader import Draws
from shard_reader.transforms.compose import compose
assert keras.backend.backend() == sys.argv[1]
layers = keras.layers
random = keras.Sequential([layers.RandomFlip(), layers.RandomCrop(20, 20), layers.RandomContrast(0.2)])
for layer in (random, layers.Rescaling(0.5)):
    first, *others = [compose(layer)(picture(), Draws(1, place)) for place in (0, 1, 0)]
    print(json.dumps([str(first.dtype), first.shape, *(np.array_equal(first, other) for other in others)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend", ["jax", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("tensorflow", "torch"))]
)
def test_every_backend_has_exact_layers(backend: str) -> None:
    pytest.importorskip(backend)
    result = subprocess.run(
        [sys.executable, "-c", BACKENDS, backend],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    random, fixed = map(json.loads, result.stdout.splitlines()[-2:])
    assert random == ["float32", [20, 20, 3], False, True] and fixed == ["float32", [41, 57, 3], True, True]
