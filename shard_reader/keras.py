"""Streams as a Keras `PyDataset`, on TensorFlow, JAX and PyTorch, and training that resumes where it stopped."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

try:
    import keras
except ModuleNotFoundError as error:
    needed = "Keras: pip install 'image-shards[keras]'"
    if error.name != "keras":  # Keras itself is there
        needed = (
            f"a backend for Keras, which finds no {str(error.name).partition('.')[0]}: pip install 'image-shards[tf]',"
            " or [jax] or [torch] with KERAS_BACKEND=jax or KERAS_BACKEND=torch"
        )
    raise ModuleNotFoundError(f"shard_reader.keras needs {needed}", name=error.name) from error

from shard_reader.adapters.elements import Choice, Elements
from shard_reader.adapters.keras_checkpoint import KEPT, POSITION, assign, check_weights, read_position, weights_name
from shard_reader.adapters.keras_fit import caller, check_image_sizes, take_over, with_class_weight
from shard_reader.adapters.normalization import pixel_statistics
from shard_reader.arguments import at_least_one
from shard_reader.dataset.records import Records
from shard_reader.errors import StateError
from shard_reader.storage.local import sync, write_whole
from shard_reader.stream.batch_reader import Batch
from shard_reader.stream.loop import Loop
from shard_reader.stream.stream import Stream
from shard_reader.system.stats import Stats

__all__ = ["ResumeCallback", "ShardSequence", "normalization"]


class ShardSequence(keras.utils.PyDataset):
    """Batches of a stream by number, in the order of the stream; `sequence[b]` is batch `b` of the epoch.

    While Keras trains, the stream's own threads make batches in advance (`threads=`, `prefetch=` of `data.stream`).
    Keras starts no workers, for any `workers` and `use_multiprocessing`, and does not shuffle batches, not even under
    `fit(shuffle=True)`, its default.

    Keras divides losses by the size of a batch. The padding of the last one is therefore left out, unless other ranks
    have a share of it, or a `keras.distribution` divides it. An epoch that broke off begins again, unless there is a
    `ResumeCallback`. Only one loop at a time can read a sequence: make another one for `evaluate` in a callback.

    On TensorFlow, Keras keeps the sequence for ever: `stream.close()` frees its threads and buffers.

    Args:
        stream: the stream of the batches.
        inputs: the first part of elements `(inputs, targets, weight)`: a field's name, several names, which give a
            tuple, or a function of the batch, a dictionary of NumPy arrays.
        targets: the second part, in the same forms. Without targets, elements are the inputs alone.
        weight: the third part, in the same forms. None leaves it out.
        one_hot: labels as float32 `[n, classes]`: True, or the number of classes.
        options: options of `keras.utils.PyDataset`: `workers`, `use_multiprocessing`, `max_queue_size`.

    Raises:
        ValueError: the stream has no such field, padding would count, batches have several image sizes (on TensorFlow),
            or the stream is in the middle of an epoch.
        TypeError: `stream` is not a Stream.
    """

    # It looks at who calls it. Keras shuffles batches by default, and asks only once in `fit` for the number of batches
    # in all epochs; no public way tells it otherwise. `tests/test_keras.py` shows it if a new Keras is built
    # differently.

    def __init__(
        self,
        stream: Stream,
        *,
        inputs: Choice = "image",
        targets: Choice = "label",
        weight: Choice = "weight",
        one_hot: bool | int = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._elements = Elements(stream, inputs, targets, weight, one_hot, is_trimmed=_is_undivided())
        if stream.remaining != len(stream):
            raise ValueError(
                f"the stream is at step {stream.step} of epoch {stream.epoch}, and Keras asks for whole epochs: make"
                " the sequence first, and restore the position with ResumeCallback"
            )
        check_image_sizes(stream)
        self.stream, self._lock, self._within_epoch = stream, threading.Lock(), False
        self.start_at(stream.epoch, 0)

    def __repr__(self) -> str:
        return f"ShardSequence({self.stream!r}{self._elements})"

    def __len__(self) -> int:
        """The number of batches in an epoch; in Keras' loop over an epoch that `start_at` began within, the rest."""
        return len(self.stream) - self._first

    def __getitem__(self, step: int) -> Any:
        """Batch `step` of the epoch.

        Raises:
            IndexError: the epoch has no such batch.
            CorruptionError: a record is damaged.
        """
        if not 0 <= step < len(self):
            raise IndexError(f"batch {step} of {len(self)}")
        with self._lock:
            adapter = caller(1, "py_dataset", "shuffle")
            place, batch = self._read(step, asked_by_keras=adapter is not None)
        return with_class_weight(self._element(batch, place), adapter)

    def __iter__(self) -> Iterator[Any]:
        """The batches of an epoch; the next loop is the next epoch."""
        epoch, first = self._start
        self.start_at(epoch + 1, 0)
        return Loop(self._element(batch, step) for step, batch in enumerate(self.stream.batches(epoch, first), first))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_ahead": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def stats(self) -> Stats:
        """`Stream.stats` of its stream."""
        return self.stream.stats()

    @property
    def epoch(self) -> int:
        """The stream's epoch of the batches."""
        return self._epoch

    @property
    def workers(self) -> int:
        """1: Keras takes batches in one thread, one after the other."""
        # On JAX and PyTorch, Keras takes a first batch to learn the shapes. Workers would have made more by then, which
        # it gives again, and leaves out as many at the end of the epoch. And the stream's threads work in advance
        # anyway. Keras' adapter asks for this when it is made, which is the moment to tell it not to shuffle.
        adapter = caller(1, "py_dataset", "shuffle")
        if adapter is not None and adapter.py_dataset is self:
            take_over(adapter, self.stream.data.class_names, has_weights=self._elements.has_weights)
            self._stop()  # a loop that ended with an exception
        return 1

    @property
    def use_multiprocessing(self) -> bool:
        """False: as for `workers`."""
        return False

    def start_at(self, epoch: int, step: int) -> None:
        """Go to an epoch. Keras' next loop has its batches from `step` on."""
        self._start = epoch, step
        self._stop()

    def on_epoch_begin(self) -> None:
        """Keras calls this, and then asks for one batch after the other."""
        with self._lock:
            if not self._within_epoch:
                (self._epoch, self._first), self._within_epoch = self._start, True
                self._start = self._epoch, 0
        # Keras asks for the number of batches once, when `fit` begins, and not for the rest of an epoch. Running out of
        # batches does not end one: TensorFlow does a part of a step before it sees that there is no batch for it.
        iterator = caller(2, "data_adapter", "_num_batches")
        if iterator is not None and getattr(iterator.data_adapter, "py_dataset", None) is self:
            iterator._num_batches = len(self)

    def on_epoch_end(self) -> None:
        """Keras calls this. If it took all batches, the next ones are of the next epoch."""
        with self._lock:
            if self._next == len(self):
                self.start_at(self._epoch + 1, 0)
            elif self._within_epoch and self._first:
                self.start_at(self._epoch, self._first)  # Keras took the first batch only to learn the shapes
            self._within_epoch = False

    def _stop(self) -> None:
        self._epoch, self._first, self._next, self._within_epoch = self._start[0], 0, 0, False
        self._ahead: Loop[Batch] | None = None

    def _read(self, step: int, asked_by_keras: bool) -> tuple[int, Batch]:
        """The step of the stream, and its batch."""
        # From the start again: Keras took the batch to learn the shapes; or an epoch of `steps_per_epoch` began.
        if self._within_epoch and step == 0 and self._next:
            done = self._next == len(self)
            self._epoch, self._first, self._next = self._epoch + done, 0 if done else self._first, 0
            self._start, self._ahead = (self._epoch, 0), None
        place = self._first + step
        if not self._within_epoch or step != self._next:
            if asked_by_keras and step > 1:  # Keras may take the first two before it begins
                raise RuntimeError(
                    f"batch {step} of epoch {self._epoch} was asked for where {self._next} is next: another loop reads"
                    " this sequence, as evaluate() in a callback does: make a ShardSequence for each of them"
                )
            return place, self.stream.batch(self._epoch, place)
        if self._ahead is None:
            self._ahead = self.stream.batches(self._epoch, place)
        try:
            batch = next(self._ahead)
        except BaseException:
            self._ahead = None  # the same batch can be asked for again
            raise
        self._next += 1
        if self._next == len(self):
            next(self._ahead, None)  # so that the loop comes to its end, and reports
            self._ahead = None
        return place, batch

    def _element(self, batch: Batch, step: int) -> Any:
        if self.stream.order.world_size == 1 and _is_undivided():
            rest = self.stream.order.records - step * self.stream.order.batch_size
            batch = {name: values[:rest] for name, values in batch.items()}
        element = self._elements.select(self._elements.arrays(batch))
        return element if isinstance(element, tuple | dict) else (element,)


class ResumeCallback(keras.callbacks.Callback):
    """Saves the weights, the optimizer, the layers' random states and the position, and resumes from them.

    The position is that of the trained step, not of the batches that Keras took in advance. Training continues with the
    same batches and losses, also in the middle of an epoch. (With PyTorch, layers that draw need a `seed`: otherwise
    they draw from its global generator.) A checkpoint is replaced when the next one is whole, so a crash leaves one of
    the two. It does not hold the state of other callbacks (the patience of EarlyStopping, say). The metrics of a
    resumed epoch are of its rest.

    Args:
        sequence: the sequence that `fit` trains on.
        directory: the directory of the checkpoint: a weights file, and `position.json`.
        save_freq: "epoch" to save after every epoch; a number to save after so many steps, and every epoch.

    Attributes:
        initial_epoch: the epoch to continue with, for `fit`; 0 without a checkpoint.

    Raises:
        StateError: the checkpoint is damaged, or of another dataset, batch size or order.
        ValueError: `directory` is a URL.
        OSError: `directory` cannot be made.
        TypeError: `sequence` is not a ShardSequence.

    Examples:
        >>> train = ShardSequence(stream)  # doctest: +SKIP
        >>> resume = ResumeCallback(train, "checkpoint", save_freq=100)  # doctest: +SKIP
        >>> model.fit(train, epochs=10, initial_epoch=resume.initial_epoch, callbacks=[resume])  # doctest: +SKIP
    """

    def __init__(
        self,
        sequence: ShardSequence,
        directory: str | os.PathLike[str],
        save_freq: Literal["epoch"] | int = "epoch",
    ) -> None:
        super().__init__()
        if not isinstance(sequence, ShardSequence):
            raise TypeError(f"{sequence!r} is no ShardSequence: pass the sequence that fit trains on")
        if "://" in str(directory):
            raise ValueError(f"directory={str(directory)!r}: must be on a disk of this machine")
        self._every = 0 if save_freq == "epoch" else at_least_one("save_freq", save_freq)
        self._sequence, self._stream, self._directory = sequence, sequence.stream, Path(directory)
        self._weights: str | None = None
        self._random_states: list[Any] = []
        self.initial_epoch = 0
        self._directory.mkdir(parents=True, exist_ok=True)  # now, so that an error does not cost an epoch
        self._load_position()
        self._place = self._stream.next  # the position of the checkpoint
        self._offset = self._place[0] - self.initial_epoch  # from Keras' epochs to those of the stream
        self._epoch, self._step = self._place
        self._is_loaded, self._is_due = False, False

    def on_train_begin(self, logs: Any = None) -> None:
        """Load the weights and the optimizer, unless this `fit` continues one that ended well.

        Raises:
            ValueError: the model is not built.
            StateError: the model is not the one that was saved.
        """
        if self._weights is None or self._is_loaded:
            self._is_loaded = False
            return
        if not self.model.built:
            raise ValueError("the model is not built: give it a keras.Input, or call it on a batch, before fit")
        states = _random_states(self.model)
        if len(states) != len(self._random_states):
            raise StateError(
                f"{self._directory / POSITION}: has the states of {len(self._random_states)} layers that draw, and the"
                f" model has {len(states)}: remove {self._directory} to begin again"
            )
        if self.model.optimizer is not None and not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        check_weights(self._directory / self._weights)
        self.model.load_weights(self._directory / self._weights)
        for state, values in zip(states, self._random_states, strict=True):
            assign(state, values, self._directory)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Have the sequence begin the epoch; the first time, the rest of it.

        Raises:
            ValueError: `fit` was not given `initial_epoch`, or was given `steps_per_epoch`.
        """
        self._save_if_due()
        if epoch < self.initial_epoch:
            raise ValueError(f"fit begins with epoch {epoch}: pass initial_epoch={self.initial_epoch}, the callback's")
        steps = (self.params or {}).get("steps")
        if steps not in (None, len(self._stream)):
            raise ValueError(f"steps_per_epoch={steps}: leave it out: an epoch has {len(self._stream)} batches")
        self._epoch = epoch + self._offset
        self._step = self._place[1] if self._epoch == self._place[0] else 0
        self._first = self._saved = self._step
        self._sequence.start_at(self._epoch, self._step)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the step, and save if it is time."""
        # At most the last: with `steps_per_execution`, Keras counts several steps at a time, and past the end.
        self._step = min(self._first + batch + 1, len(self._stream))
        if self._every and self._step - self._saved >= self._every and self._step < len(self._stream):
            self._save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note that the end of the epoch, or the step at which a callback stopped it, is to be saved."""
        # Saved when the next epoch begins, since other callbacks act at the end of this one, too.
        if not self.model.stop_training:
            self._step = len(self._stream)
        self._is_due = True

    def on_train_end(self, logs: Any = None) -> None:
        """Save the last epoch."""
        self._save_if_due()
        self._is_loaded = True

    def _load_position(self) -> None:
        found = read_position(self._directory)
        if found is not None:
            self._stream.load_state_dict(found.position)
            self.initial_epoch, self._weights, self._random_states = found.epoch, found.weights, found.random_states

    def _save_if_due(self) -> None:
        """Save the end of an epoch, after all callbacks had their turn: they may change the learning rate."""
        if self._is_due:
            self._is_due = False
            self._save()

    def _save(self) -> None:
        """Write the weights, then the position that names them, then remove the previous weights."""
        weights = weights_name(self._epoch, self._step)
        new = self._directory / "new.weights.h5"
        try:
            self.model.save_weights(new, overwrite=True)
            sync(new)
            new.replace(self._directory / weights)
        except BaseException:  # a full disk, say: the previous checkpoint stays
            new.unlink(missing_ok=True)
            raise
        state = self._stream.state_at(self._step, self._epoch)
        self._random_states = [keras.ops.convert_to_numpy(state).tolist() for state in _random_states(self.model)]
        self._place, self._saved = (state["epoch"], state["step"]), self._step
        self.initial_epoch = self._place[0] - self._offset
        kept = (self.initial_epoch, weights, state, self._random_states)
        text = json.dumps(dict(zip(KEPT, kept, strict=True)), indent=1) + "\n"
        write_whole(self._directory / POSITION, [text.encode()])
        if self._weights not in (None, weights):
            (self._directory / str(self._weights)).unlink(missing_ok=True)
        self._weights = weights


def normalization(
    data: Records, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> keras.layers.Normalization:
    """A Keras layer from images to float32 with mean 0 and standard deviation 1, which runs on the device.

    Under a mixed policy the following layers cast its result to float16 or bfloat16.

    Args:
        data: the dataset, with the mean and standard deviation of each channel in its manifest.
        mean: means to take instead, of pixels scaled to 0..1.
        std: standard deviations to take instead, of pixels scaled to 0..1.

    Raises:
        ValueError: the dataset has no statistics, or its pixels are normalized already.

    Examples:
        >>> keras.Sequential([keras.Input((224, 224, 3)), normalization(data), *layers])  # doctest: +SKIP
    """
    statistics = pixel_statistics(data, mean, std)
    variance = [value**2 for value in statistics.std]
    layer = keras.layers.Normalization(axis=-1, mean=list(statistics.mean), variance=variance, dtype="float32")
    layer.build((None, None, None, len(variance)))  # now: variables made in a trace of the model stay in it
    return layer


def _is_undivided() -> bool:
    """Whether no `keras.distribution` divides batches, so that they may be of any size."""
    return keras.distribution.distribution() is None


def _random_states(model: keras.Model) -> list[keras.Variable]:
    """The random states of the model's layers, as Dropout, which files of weights do not have."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]
