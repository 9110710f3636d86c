"""Keras on TensorFlow, JAX and PyTorch: the order of the stream, and training that goes on where it was killed."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.servers import first_of

from shard_reader import CenterCrop, StateError, Stream, open_dataset
from shard_reader.format.checksum import crc32c

keras = pytest.importorskip("keras")

from shard_reader.keras import ResumeCallback, ShardSequence, normalization  # noqa: E402  # after the check

BACKENDS = ["tensorflow", "jax", "torch"]
NIGHTLY_BUT_TENSORFLOW = ["tensorflow", *(pytest.param(name, marks=pytest.mark.nightly) for name in BACKENDS[1:])]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def stream(path: Path, **options: Any) -> Stream:
    """60 crops in 9 batches of 7, the last with 3 of padding."""
    chosen: dict[str, Any] = {"batch_size": 7, "image": CenterCrop(12), "seed": 3, **options}
    return open_dataset(path).stream(**chosen)


def run(backend: str, script: str, *arguments: object, **options: Any) -> list[Any]:
    """The lines of JSON that a script prints with a backend."""
    pytest.importorskip(backend)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        **options,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith(("{", "["))]


COMMON = """
import json, os, signal, sys
import keras, numpy as np
from shard_reader import CenterCrop, open_dataset
from shard_reader.keras import ResumeCallback, ShardSequence, normalization

data = open_dataset(sys.argv[1])

def sequence(batch_size=7, workers=1, **options):
    stream = data.stream(batch_size=batch_size, image=CenterCrop(12), seed=3, **options)
    return ShardSequence(stream, workers=workers, use_multiprocessing=workers > 1)

def network():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((12, 12, 3)), normalization(data), layers.Flatten(), layers.Dropout(0.2, seed=1), layers.Dense(3)
    ])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, weighted_metrics=["accuracy"])
    return model
"""

ORDER = (
    COMMON
    + """
class Asked(ShardSequence):
    def __getitem__(self, step):
        element = super().__getitem__(step)
        asked.append([self.epoch, element[1].tolist()])
        return element

for options in ({}, {"workers": 3}):
    for shuffle in ({}, {"shuffle": False}):
        asked = []
        given = Asked(sequence(**options).stream)
        network().fit(given, epochs=3, verbose=0, **shuffle)
        print(json.dumps(asked))
model = network()
print(json.dumps({
    "backend": keras.backend.backend(),
    "loss": [float(model.evaluate(sequence(batch_size=size), verbose=0)[0]) for size in (7, 60)],
    "rows": model.predict(
        ShardSequence(data.stream(batch_size=7, image=CenterCrop(12), shuffle="none"), targets=None),
        verbose=0,
    ).tolist(),
    "alone": model.predict(np.stack([CenterCrop(12)(data.image(n)) for n in range(len(data))]), verbose=0).tolist(),
}))
"""
)


@pytest.mark.parametrize("backend", first_of(*BACKENDS))
def test_training_is_in_the_order_of_the_stream(backend: str, jpeg_shards: Path) -> None:
    """Also under Keras' own shuffle, its default, and with the workers that it is asked for."""
    *runs, rest = run(backend, ORDER, jpeg_shards)
    assert len(runs) == 4 and rest["backend"] == backend
    one = stream(jpeg_shards)
    expected = [[epoch, batch["label"][batch["weight"] > 0].tolist()] for epoch in range(3) for batch in one]
    for asked in runs:  # Keras may look at the first batches before it begins
        assert [asked[n] for n in range(len(asked) - 27, len(asked))] == expected
    assert rest["loss"][0] == pytest.approx(rest["loss"][1], rel=1e-5), "padding counts nothing"
    assert np.allclose(rest["rows"], rest["alone"], rtol=1e-4, atol=1e-5) and len(rest["rows"]) == 60


TRAIN = (
    COMMON
    + """
class Log(keras.callbacks.Callback):
    step = 0
    def __init__(self, stop):
        super().__init__()
        self.stop = int(stop)
    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step == self.stop:
            os.kill(os.getpid(), signal.SIGKILL)
    def on_epoch_end(self, epoch, logs=None):
        weights = [np.abs(weight).sum().item() for weight in self.model.get_weights()]
        print(json.dumps({"epoch": epoch, "weights": weights, "steps": self.step}), flush=True)

# A process takes seconds to import Keras: it does several trainings, one after the other.
for directory, stop, every in zip(sys.argv[2::3], sys.argv[3::3], sys.argv[4::3], strict=True):
    train = sequence()
    resume = ResumeCallback(train, directory, save_freq=int(every) or "epoch")
    validation = sequence(batch_size=60)
    network().fit(train, epochs=4, verbose=0, validation_data=validation, initial_epoch=resume.initial_epoch,
                  callbacks=[resume, Log(stop)])
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("backend", NIGHTLY_BUT_TENSORFLOW)
def test_a_training_that_was_killed_goes_on_bit_for_bit(backend: str, jpeg_shards: Path, tmp_path: Path) -> None:
    steps, epochs = (tmp_path / "steps", 4), (tmp_path / "epochs", 0)
    for (directory, every), stopped in ((steps, 24), (epochs, 20)):
        with pytest.raises(AssertionError):
            run(backend, TRAIN, jpeg_shards, directory, stopped, every)
        assert json.loads((directory / "position.json").read_text())["epoch"] == 2
    trainings = [(tmp_path / "whole", 0), steps, epochs, steps, epochs]
    found = run(
        backend, TRAIN, jpeg_shards, *(word for directory, every in trainings for word in (directory, 0, every))
    )
    # Of the last two nothing is left to do.
    assert [epoch["epoch"] for epoch in found] == [0, 1, 2, 3, 2, 3, 2, 3]
    assert [epoch["steps"] for epoch in found] == [9, 18, 27, 36, 5, 14, 9, 18]
    weights = [epoch["weights"] for epoch in found]
    assert weights[2:4] == weights[4:6] == weights[6:8]
    for directory, _ in (steps, epochs):
        assert sorted(path.name for path in directory.iterdir()) == [
            "epoch-00003-step-00000009.weights.h5",
            "position.json",
        ]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 9, 14, 26])
def test_a_training_that_was_stopped_goes_on_bit_for_bit(jpeg_shards: Path, tmp_path: Path, stop: int) -> None:
    """At any step, with the checkpoint of that step."""

    class Stop(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        steps = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.steps += 1
            if self.steps == stop:
                raise KeyboardInterrupt

    def train(directory: str, *callbacks: Any) -> list[Any]:
        keras.utils.set_random_seed(1)
        sequence, model = ShardSequence(stream(jpeg_shards)), network(jpeg_shards)
        resume = ResumeCallback(sequence, tmp_path / directory, save_freq=1)
        model.fit(sequence, epochs=3, initial_epoch=resume.initial_epoch, callbacks=[resume, *callbacks], verbose=0)
        return [weight.tolist() for weight in model.get_weights()]

    with pytest.raises(KeyboardInterrupt):
        train("stopped", Stop())
    assert train("stopped") == train("whole")


@pytest.mark.slow
def test_a_checkpoint_is_whole_whenever_the_process_is_killed(jpeg_shards: Path, tmp_path: Path) -> None:
    directory = tmp_path / "checkpoint"
    command = [sys.executable, "-W", "ignore", "-c", TRAIN, str(jpeg_shards), str(directory), "0", "1"]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        before = (directory / "position.json").read_bytes() if (directory / "position.json").exists() else b""
        for _ in range(30_000):  # until it saves, and then some
            if (directory / "position.json").exists() and (directory / "position.json").read_bytes() != before:
                break
            if process.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        position = json.loads((directory / "position.json").read_text())
        assert (directory / position["weights"]).is_file()
        seen.append((position["position"]["epoch"], position["position"]["step"]))
    assert seen == sorted(seen) and len(set(seen)) > 2
    found = run("tensorflow", TRAIN, jpeg_shards, tmp_path / "whole", 0, 0, directory, 0, 1)
    assert found[3]["epoch"] == found[-1]["epoch"] == 3 and found[3]["weights"] == found[-1]["weights"]


def test_batches_by_number_are_those_of_the_epoch(jpeg_shards: Path) -> None:
    one = stream(jpeg_shards)
    sequence = ShardSequence(one)
    for step in (5, 2, 8, 0, 1, 2, 7, 3, 0):
        images, labels, weight = sequence[step]
        batch = one.batch(0, step)
        size = 4 if step == 8 else 7
        assert np.array_equal(images, batch["image"][:size]) and np.array_equal(labels, batch["label"][:size])
        assert weight.tolist() == [1.0] * size
    for step in (9, -1):
        with pytest.raises(IndexError, match=f"batch {step} of 9"):
            sequence[step]


def test_batches_that_are_kept_stay_as_they_are(jpeg_shards: Path) -> None:
    kept = list(ShardSequence(stream(jpeg_shards)))
    assert len(kept) == 9
    for (images, labels, _), batch in zip(kept, stream(jpeg_shards, remainder="keep"), strict=True):
        assert np.array_equal(images, batch["image"]) and np.array_equal(labels, batch["label"])


def test_epochs_follow_each_other(jpeg_shards: Path) -> None:
    sequence, one = ShardSequence(stream(jpeg_shards)), stream(jpeg_shards, remainder="keep")
    for epoch in range(3):
        assert sequence.epoch == epoch
        assert [part[1].tolist() for part in sequence] == [batch["label"].tolist() for batch in one]


def test_images_are_checked_in_the_first_epoch_alone(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []
    monkeypatch.setattr(
        "shard_reader.stream.arrays.lookup.crc32c", lambda payload: checked.append(1) or crc32c(payload)
    )
    sequence = ShardSequence(stream(jpeg_shards))
    for _ in range(3):
        sequence.on_epoch_begin()
        for step in range(len(sequence)):
            sequence[step]
        sequence.on_epoch_end()
    assert len(checked) == 63, "with the padding"


@pytest.mark.parametrize("batch_size", [60, 30])
def test_epochs_of_one_or_two_batches_begin_with_the_first(jpeg_shards: Path, batch_size: int) -> None:
    """Keras, on TensorFlow, looks at up to two batches before it begins."""
    asked: list[tuple[int, list[int]]] = []

    class Asked(ShardSequence):
        def __getitem__(self, step: int) -> Any:
            element = super().__getitem__(step)
            asked.append((self.epoch, element[1].tolist()))
            return element

    network(jpeg_shards).fit(Asked(stream(jpeg_shards, batch_size=batch_size)), epochs=3, verbose=0)
    one = stream(jpeg_shards, batch_size=batch_size)
    expected = [(epoch, batch["label"].tolist()) for epoch in range(3) for batch in one]
    assert asked[-len(expected) :] == expected


def test_ranks_keep_their_padding(jpeg_shards: Path) -> None:
    parts = [ShardSequence(stream(jpeg_shards, batch_size=8, rank=rank, world_size=2))[7] for rank in range(2)]
    assert [part[2].tolist() for part in parts] == [[1.0, 1.0, 0.0, 0.0]] * 2
    with pytest.raises(ValueError, match="4 records of padding"):
        ShardSequence(stream(jpeg_shards, batch_size=8, world_size=2), weight=None)


def test_a_sequence_can_be_pickled(jpeg_shards: Path) -> None:
    sequence = ShardSequence(stream(jpeg_shards), workers=2, use_multiprocessing=True)
    expected = [part[0].tobytes() for part in sequence]
    other = pickle.loads(pickle.dumps(ShardSequence(stream(jpeg_shards))))
    assert [part[0].tobytes() for part in other] == expected


def test_inputs_alone_and_elements_without_weights(jpeg_shards: Path) -> None:
    (images,) = ShardSequence(stream(jpeg_shards), targets=None)[8]
    assert images.shape == (4, 12, 12, 3)
    pair = ShardSequence(stream(jpeg_shards), weight=None, one_hot=True)[0]
    assert len(pair) == 2 and pair[1].shape == (7, 3)


def test_class_weights_multiply_those_of_the_records(jpeg_shards: Path) -> None:
    """Keras refuses `class_weight` beside sample weights: here it works, padding included."""
    table = {0: 1.0, 2: 3.0}
    weighted = ShardSequence(
        stream(jpeg_shards), weight=lambda batch: batch["weight"] * np.array([1, 1, 3], np.float32)[batch["label"]]
    )
    expected, found = network(jpeg_shards), network(jpeg_shards)
    found.set_weights(expected.get_weights())
    history = expected.fit(weighted, epochs=2, verbose=0).history
    sequence = ShardSequence(stream(jpeg_shards))
    assert found.fit(sequence, epochs=2, class_weight=table, verbose=0).history == history
    # Only that `fit` has them.
    assert set(sequence[3][2].tolist()) == {1.0}
    one_hot = ShardSequence(stream(jpeg_shards), one_hot=True)
    categorical = network(jpeg_shards, keras.losses.CategoricalCrossentropy(from_logits=True))
    categorical.set_weights(network(jpeg_shards).get_weights())
    assert len(
        categorical.fit(one_hot, class_weight=table, verbose=0, validation_data=sequence_of(jpeg_shards)).history
    )


def sequence_of(path: Path) -> ShardSequence:
    return ShardSequence(stream(path, shuffle="none"), one_hot=True)


def test_class_weights_may_stand_alone(jpeg_shards: Path) -> None:
    plain = ShardSequence(stream(jpeg_shards, remainder="keep"), weight=None)
    network(jpeg_shards).fit(plain, class_weight={0: 1, 1: 2, 2: 3}, verbose=0)


@pytest.mark.parametrize("weights", [{"a": 1.0}, {3: 1.0}, {-1: 2.0}], ids=str)
def test_a_class_weight_of_no_class_is_an_error(jpeg_shards: Path, weights: Any) -> None:
    """Keras itself takes no notice of it."""
    with pytest.raises(ValueError, match="must be the number of a class, of 0 to 2"):
        network(jpeg_shards).fit(ShardSequence(stream(jpeg_shards)), class_weight=weights, verbose=0)


def test_class_weights_need_labels(jpeg_shards: Path) -> None:
    model = network(jpeg_shards)
    sequence = ShardSequence(stream(jpeg_shards), targets=("label", "label"))
    with pytest.raises(ValueError, match="class_weight needs targets of one label for each record"):
        model.fit(sequence, class_weight={0: 2.0}, verbose=0)


def network(path: Path, loss: Any = None) -> Any:
    model = keras.Sequential([keras.Input((12, 12, 3)), normalization(open_dataset(path)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(3))
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, weighted_metrics=["accuracy"])
    return model


def test_normalization_is_the_manifests(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    images = np.stack([data.image(n) for n in range(len(data))])
    result = np.asarray(normalization(data)(images))
    assert result.dtype == np.float32
    assert np.allclose(result.mean((0, 1, 2)), 0, atol=0.01) and np.allclose(result.std((0, 1, 2)), 1, atol=0.01)


def test_a_stream_in_the_middle_of_an_epoch_is_an_error(jpeg_shards: Path) -> None:
    one = stream(jpeg_shards)
    one.load_state_dict(one.state_at(4, 2))
    with pytest.raises(ValueError, match=r"at step 4 of epoch 2, .* restore the position with ResumeCallback"):
        ShardSequence(one)


def test_what_would_break_resuming_is_an_error(jpeg_shards: Path, tmp_path: Path) -> None:
    sequence, model = ShardSequence(stream(jpeg_shards)), network(jpeg_shards)
    resume = ResumeCallback(sequence, tmp_path / "one")
    with pytest.raises(ValueError, match="steps_per_epoch=4: leave it out: an epoch has 9 batches"):
        model.fit(sequence, steps_per_epoch=4, callbacks=[resume], verbose=0)
    sequence = ShardSequence(stream(jpeg_shards))
    model.fit(sequence, callbacks=[ResumeCallback(sequence, tmp_path / "one")], verbose=0)
    again = ResumeCallback(ShardSequence(stream(jpeg_shards)), tmp_path / "one")
    assert again.initial_epoch == 1
    with pytest.raises(ValueError, match="fit begins with epoch 0: pass initial_epoch=1"):
        model.fit(sequence, epochs=2, callbacks=[again], verbose=0)
    with pytest.raises(StateError, match="of another stream"):
        ResumeCallback(ShardSequence(stream(jpeg_shards, seed=9)), tmp_path / "one")
    with pytest.raises(TypeError, match="is no ShardSequence"):
        ResumeCallback(stream(jpeg_shards), tmp_path / "one")
    with pytest.raises(ValueError, match="save_freq=0: must be at least 1"):
        ResumeCallback(sequence, tmp_path / "one", save_freq=0)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"epoch": 1}',
        '{"epoch": 1, "weights": "epoch-00001-step-00000000.weights.h5", "position": {}, "random_states": []}',
    ],
)
def test_a_damaged_checkpoint_says_what_to_do(jpeg_shards: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "position.json").write_text(text)
    with pytest.raises(
        StateError, match=r"position\.json: is not a position|epoch-00001-step-00000000\.weights\.h5: is missing"
    ):
        ResumeCallback(ShardSequence(stream(jpeg_shards)), tmp_path)


def test_a_callback_that_stops_an_epoch_keeps_its_position(jpeg_shards: Path, tmp_path: Path) -> None:
    class Stop(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 3

    sequence, model = ShardSequence(stream(jpeg_shards)), network(jpeg_shards)
    model.fit(sequence, epochs=5, callbacks=[ResumeCallback(sequence, tmp_path), Stop()], verbose=0)
    position = json.loads((tmp_path / "position.json").read_text())
    assert (position["epoch"], position["position"]["epoch"], position["position"]["step"]) == (0, 0, 4)


def test_another_loop_over_the_same_sequence_is_an_error(jpeg_shards: Path) -> None:
    sequence, model = ShardSequence(stream(jpeg_shards)), network(jpeg_shards)

    class Evaluate(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 3:
                self.model.evaluate(sequence, verbose=0)

    with pytest.raises(Exception, match=r"another loop reads\s+this sequence|another loop reads"):
        model.fit(sequence, callbacks=[Evaluate()], verbose=0)
    assert model.predict(sequence, verbose=0).shape == (60, 3), "what was cut off begins anew"


def test_a_second_fit_goes_on_from_the_first(jpeg_shards: Path, tmp_path: Path) -> None:
    """With what was changed between the two."""
    sequence, model = ShardSequence(stream(jpeg_shards)), network(jpeg_shards)
    resume = ResumeCallback(sequence, tmp_path)
    model.fit(sequence, epochs=2, initial_epoch=resume.initial_epoch, callbacks=[resume], verbose=0)
    assert resume.initial_epoch == 2
    model.set_weights([weight * 0 for weight in model.get_weights()])
    model.optimizer.learning_rate = 0.0
    model.fit(sequence, epochs=3, initial_epoch=resume.initial_epoch, callbacks=[resume], verbose=0)
    assert not any(np.any(weight) for weight in model.get_weights()[:2])
    assert resume.initial_epoch == 3 and json.loads((tmp_path / "position.json").read_text())["epoch"] == 3


def test_what_callbacks_do_at_the_end_of_an_epoch_is_saved(jpeg_shards: Path, tmp_path: Path) -> None:
    class Halve(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) / 2

    sequence, model = ShardSequence(stream(jpeg_shards)), network(jpeg_shards)
    model.fit(sequence, epochs=2, callbacks=[ResumeCallback(sequence, tmp_path), Halve()], verbose=0)
    sequence, model = ShardSequence(stream(jpeg_shards)), network(jpeg_shards)
    resume = ResumeCallback(sequence, tmp_path)
    model.fit(sequence, epochs=3, initial_epoch=2, callbacks=[resume], verbose=0)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01 / 4)


def test_a_model_of_other_layers_is_an_error(jpeg_shards: Path, tmp_path: Path) -> None:
    sequence, model = ShardSequence(stream(jpeg_shards)), network(jpeg_shards)
    model.fit(sequence, callbacks=[ResumeCallback(sequence, tmp_path)], verbose=0)
    sequence, model = ShardSequence(stream(jpeg_shards)), network(jpeg_shards)
    other = keras.Sequential([keras.Input((12, 12, 3)), keras.layers.Flatten(), keras.layers.Dropout(0.5)])
    other.compile("sgd", "mse")
    with pytest.raises(StateError, match="states of 0 layers that draw, and the model has 1"):
        other.fit(sequence, epochs=2, initial_epoch=1, callbacks=[ResumeCallback(sequence, tmp_path)], verbose=0)


def test_a_model_that_is_not_built_can_normalize(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    model = keras.Sequential([normalization(data), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(ShardSequence(data.stream(batch_size=16)), verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_a_checkpoint_is_on_a_disk(jpeg_shards: Path) -> None:
    with pytest.raises(ValueError, match="directory='gs://bucket/checkpoint': must be on a disk"):
        ResumeCallback(ShardSequence(stream(jpeg_shards)), "gs://bucket/checkpoint")


def test_a_directory_that_cannot_be_made_is_an_error_at_once(jpeg_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=str(tmp_path / "file")):
        ResumeCallback(ShardSequence(stream(jpeg_shards)), tmp_path / "file" / "checkpoint")


def test_a_full_disk_leaves_the_checkpoint_before(
    jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence, model = ShardSequence(stream(jpeg_shards)), network(jpeg_shards)
    resume = ResumeCallback(sequence, tmp_path)
    model.fit(sequence, callbacks=[resume], verbose=0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def half(path: Path, **options: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(model, "save_weights", half)
    with pytest.raises(OSError, match="No space left"):
        model.fit(sequence, epochs=2, initial_epoch=1, callbacks=[resume], verbose=0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


MEMORY = (
    COMMON
    + """
import gc
class Used(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        gc.collect()
        status = open("/proc/self/status").read()
        used.append(int(status.split("RssAnon:")[1].split()[0]))

for adapter in sys.argv[2:]:
    used = []
    given = sequence()
    if adapter == "as_dataset":
        from shard_reader.tf_data import as_dataset
        given = as_dataset(given.stream, inputs="image", targets="label")
    network().fit(given, epochs=20, verbose=0, shuffle=False, callbacks=[Used()])
    print(json.dumps(used))
"""
)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_is_flat_over_20_epochs(backend: str, jpeg_shards: Path) -> None:
    adapters = ("ShardSequence", "as_dataset") if backend == "tensorflow" else ("ShardSequence",)
    for used in run(backend, MEMORY, jpeg_shards, *adapters):
        assert len(used) == 20 and used[-1] - used[4] < 8 << 10, used
