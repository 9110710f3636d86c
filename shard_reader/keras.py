"""Streams as a Keras `PyDataset`, on TensorFlow, JAX and PyTorch, and training that goes on where it stopped."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

try:
    import keras
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "shard_reader.keras needs Keras: pip install 'image-shards[keras]'", name=error.name
    ) from error

from shard_reader.adapters.elements import Choice, Elements
from shard_reader.adapters.normalization import pixel_statistics
from shard_reader.arguments import at_least_one
from shard_reader.dataset.records import Records
from shard_reader.errors import StateError
from shard_reader.stream.batch_reader import Batch
from shard_reader.stream.stream import Stream

__all__ = ["ResumeCallback", "ShardSequence", "normalization"]

_POSITION = "position.json"
_KEPT = ("epoch", "weights", "position", "random_states")


class ShardSequence(keras.utils.PyDataset):
    """Batches of a stream by number, in the order of the stream; `sequence[b]` is batch `b` of the epoch.

    While Keras trains, batches are made ahead by the stream's own threads (`threads=`, `prefetch=` of `data.stream`),
    so that Keras starts no workers of its own, whatever `workers` and `use_multiprocessing` are. Nor does it shuffle
    batches, as it would under `fit(shuffle=True)`, its default.

    Keras divides losses by the size of a batch. The padding of the last one is therefore left out, unless other ranks
    have a share of it, or a `keras.distribution` divides it. An epoch that was broken off begins anew, unless there is
    a `ResumeCallback`. One loop at a time can read a sequence: make another one for `evaluate` in a callback.

    On TensorFlow, Keras never lets go of what it was given: `stream.close()` frees its threads and buffers.

    Args:
        stream: where the batches come from.
        inputs, targets, weight: what elements are made of, `(inputs, targets, weight)`: each a name, several, which
            give a tuple, or a function of the batch, a dictionary of NumPy arrays. Without targets, elements are the
            inputs alone.
        one_hot: labels as float32 `[n, classes]`: True, or the number of classes.
        options: what `keras.utils.PyDataset` takes: `workers`, `use_multiprocessing`, `max_queue_size`.

    Raises:
        ValueError: the stream has no such field, padding would count, or the stream is in the middle of an epoch.
        TypeError: `stream` is no Stream.
    """

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
        self.stream, self._lock, self._within_epoch = stream, threading.Lock(), False
        self.start_at(stream.epoch, 0)

    def __len__(self) -> int:
        """How many batches an epoch has; while Keras reads one that `start_at` began within, those that are left."""
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
            adapter = _caller(2, "py_dataset", "shuffle")
            place, batch = self._read(step, asked_by_keras=adapter is not None)
        return self._element(batch, place)

    def __iter__(self) -> Iterator[Any]:
        """The batches of an epoch; the next loop has those of the next one."""
        epoch, first = self._start
        self.start_at(epoch + 1, 0)
        for step, batch in enumerate(self.stream.batches(epoch, first), first):
            yield self._element(batch, step)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_ahead": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    @property
    def epoch(self) -> int:
        """The epoch of the stream whose batches are given."""
        return self._epoch

    @property
    def workers(self) -> int:
        """1: Keras takes batches in one thread, one after the other."""
        # Keras' adapter asks for this when it is made. It is told not to shuffle: no public way leads to that.
        adapter = _caller(2, "py_dataset", "shuffle")
        if adapter is not None and adapter.py_dataset is self:
            adapter.shuffle = False
            self._stop()  # what was under way, and ended with an exception
        return 1

    @property
    def use_multiprocessing(self) -> bool:
        """False: as for `workers`."""
        return False

    def start_at(self, epoch: int, step: int) -> None:
        """Go to an epoch, of which Keras' next loop has the batches from `step` on."""
        self._start = epoch, step
        self._stop()

    def on_epoch_begin(self) -> None:
        """Keras calls this, and then asks for one batch after the other."""
        with self._lock:
            if not self._within_epoch:
                (self._epoch, self._first), self._within_epoch = self._start, True
                self._start = self._epoch, 0
        # Keras asks how many batches an epoch has once, when `fit` begins, and not for the rest of one. Running out of
        # them is no way to end it: TensorFlow does a part of a step before it sees that there is no batch for it.
        iterator = _caller(3, "data_adapter", "_num_batches")
        if iterator is not None and getattr(iterator.data_adapter, "py_dataset", None) is self:
            iterator._num_batches = len(self)

    def on_epoch_end(self) -> None:
        """Keras calls this: if all batches were asked for, the next ones are those of the next epoch."""
        with self._lock:
            if self._next == len(self):
                self.start_at(self._epoch + 1, 0)
            elif self._within_epoch and self._first:
                self.start_at(self._epoch, self._first)  # Keras has looked at the first batch
            self._within_epoch = False

    def _stop(self) -> None:
        self._epoch, self._first, self._next, self._within_epoch = self._start[0], 0, 0, False
        self._ahead: Generator[Batch, None, None] | None = None

    def _read(self, step: int, asked_by_keras: bool) -> tuple[int, Batch]:
        """The step of the stream, and its batch."""
        if self._within_epoch and step == 0 and self._next:  # Keras has looked at it; or `steps_per_epoch`
            done = self._next == len(self)
            self._epoch, self._first, self._next = self._epoch + done, 0 if done else self._first, 0
            self._start, self._ahead = (self._epoch, 0), None
        place = self._first + step
        if not self._within_epoch or step != self._next:
            if asked_by_keras and step > 1:  # the first two it looks at before it begins
                raise RuntimeError(
                    f"batch {step} of epoch {self._epoch} was asked for where {self._next} is next: another loop reads"
                    " this sequence, as evaluate() in a callback does: make a ShardSequence for each of them"
                )
            return place, self.stream.batch(self._epoch, place)
        if self._ahead is None:
            self._ahead = self.stream.batches(self._epoch, place)
        batch = next(self._ahead)
        self._next += 1
        if self._next == len(self):
            self._ahead = None
        return place, batch

    def _element(self, batch: Batch, step: int) -> Any:
        if self.stream.order.world_size == 1 and _is_undivided():
            rest = self.stream.order.records - step * self.stream.order.batch_size
            batch = {name: values[:rest] for name, values in batch.items()}
        element = self._elements.select(self._elements.arrays(batch))
        return element if isinstance(element, tuple | dict) else (element,)


class ResumeCallback(keras.callbacks.Callback):
    """Saves the weights, the optimizer, the layers' random states and the position, and goes on from there.

    The position is that of the step that was trained, not of the batches that Keras took ahead: the steps that follow
    are those that would have followed, with the same batches and losses, also in the middle of an epoch. (With PyTorch,
    layers that draw need a `seed`: otherwise they draw from its global generator.) A checkpoint is replaced when the
    next one is whole: whatever ends the process leaves one of the two. What other callbacks remember (the patience of
    EarlyStopping, say) is not in it, and the metrics of an epoch that is resumed are of its rest.

    Args:
        sequence: what `fit` trains on.
        directory: where the checkpoint is, or will be: a weights file, and `position.json`.
        save_freq: save behind each "epoch", or behind so many steps, and each epoch.

    Attributes:
        initial_epoch: pass it to `fit`: the epoch to go on with, 0 without a checkpoint.

    Raises:
        StateError: the checkpoint is damaged, or of another dataset, batch size or order.
        ValueError: `directory` is a URL.
        OSError: it cannot be made.
        TypeError: `sequence` is no ShardSequence.

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
            raise TypeError(f"{sequence!r} is no ShardSequence: pass what fit trains on")
        if "://" in str(directory):
            raise ValueError(f"directory={str(directory)!r}: must be on a disk of this machine")
        self._every = 0 if save_freq == "epoch" else at_least_one("save_freq", save_freq)
        self._sequence, self._stream, self._directory = sequence, sequence.stream, Path(directory)
        self._weights: str | None = None
        self._random_states: list[Any] = []
        self.initial_epoch = 0
        self._directory.mkdir(parents=True, exist_ok=True)  # whether it can be shows now, not behind an epoch
        self._load_position()
        self._place = self._stream.next  # of the checkpoint
        self._offset = self._place[0] - self.initial_epoch  # from Keras' epochs to those of the stream
        self._epoch, self._step = self._place
        self._is_loaded, self._is_due = False, False

    def on_train_begin(self, logs: Any = None) -> None:
        """Load the weights and the optimizer, unless the `fit` before ended well, and this one goes on from there.

        Raises:
            ValueError: the model is not built.
            StateError: it is not the one that was saved.
        """
        if self._weights is None or self._is_loaded:
            self._is_loaded = False
            return
        if not self.model.built:
            raise ValueError("the model is not built: give it a keras.Input, or call it on a batch, before fit")
        states = _random_states(self.model)
        if len(states) != len(self._random_states):
            raise StateError(
                f"{self._directory / _POSITION}: has the states of {len(self._random_states)} layers that draw, and the"
                f" model has {len(states)}: remove {self._directory} to begin anew"
            )
        if self.model.optimizer is not None and not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self.model.load_weights(self._directory / self._weights)
        for state, values in zip(states, self._random_states, strict=True):
            state.assign(values)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Have the sequence begin with the epoch's batches, the first time with those that are left of it.

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
        self._step = min(self._first + batch + 1, len(self._stream))  # several steps at a time may end behind the last
        if self._every and self._step - self._saved >= self._every and self._step < len(self._stream):
            self._save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note that what is behind the epoch, or behind the step at which a callback stopped it, is to be saved."""
        if not self.model.stop_training:
            self._step = len(self._stream)
        self._is_due = True

    def on_train_end(self, logs: Any = None) -> None:
        """Save the last epoch."""
        self._save_if_due()
        self._is_loaded = True

    def _load_position(self) -> None:
        path = self._directory / _POSITION
        try:
            found = json.loads(path.read_text("utf-8"))
            epoch, weights, state, random_states = (found[name] for name in _KEPT)
        except FileNotFoundError:
            return
        except (ValueError, TypeError, KeyError) as error:
            raise StateError(f"{path}: is no position ({error!r}): remove {self._directory} to begin anew") from None
        if not (self._directory / weights).is_file():
            raise StateError(f"{self._directory / weights}: is missing: remove {self._directory} to begin anew")
        self._stream.load_state_dict(state)
        self.initial_epoch, self._weights, self._random_states = epoch, weights, random_states

    def _save_if_due(self) -> None:
        """Save what an epoch ended with, when all callbacks have had its end: they may change the learning rate."""
        if self._is_due:
            self._is_due = False
            self._save()

    def _save(self) -> None:
        """Write the weights, then the position that names them, then remove the weights of before."""
        weights = f"epoch-{self._epoch:05d}-step-{self._step:08d}.weights.h5"
        new = self._directory / "new.weights.h5"
        try:
            self.model.save_weights(new, overwrite=True)
            _replace(new, self._directory / weights)
        except BaseException:  # a full disk, say: the checkpoint before is still there
            new.unlink(missing_ok=True)
            raise
        state = self._stream.state_at(self._step, self._epoch)
        self._random_states = [keras.ops.convert_to_numpy(state).tolist() for state in _random_states(self.model)]
        self._place, self._saved = (state["epoch"], state["step"]), self._step
        self.initial_epoch = self._place[0] - self._offset
        kept = (self.initial_epoch, weights, state, self._random_states)
        new = self._directory / f"{_POSITION}.new"
        new.write_text(json.dumps(dict(zip(_KEPT, kept, strict=True)), indent=1) + "\n", "utf-8")
        _replace(new, self._directory / _POSITION)
        if self._weights not in (None, weights):
            (self._directory / str(self._weights)).unlink(missing_ok=True)
        self._weights = weights


def normalization(
    data: Records, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> keras.layers.Normalization:
    """A Keras layer from images to float32 with mean 0 and standard deviation 1, for the model to do on the device.

    Under a mixed policy the layers behind it take float16 or bfloat16 of it.

    Args:
        data: its manifest has the mean and standard deviation of each channel.
        mean, std: others, of pixels scaled to 0..1.

    Raises:
        ValueError: the dataset has none, or its pixels are normalized already.

    >>> keras.Sequential([keras.Input((224, 224, 3)), normalization(data), *layers])  # doctest: +SKIP
    """
    statistics = pixel_statistics(data, mean, std)
    variance = [value**2 for value in statistics.std]
    layer = keras.layers.Normalization(axis=-1, mean=list(statistics.mean), variance=variance, dtype="float32")
    layer.build((None, None, None, len(variance)))  # what is built while a model traces cannot be used outside of that
    return layer


def _is_undivided() -> bool:
    """Whether batches stay whole, and may be of any size."""
    return keras.distribution.distribution() is None


def _caller(depth: int, *attributes: str) -> Any:
    """The object whose method called, so many calls up, if it has these attributes."""
    caller = sys._getframe(depth).f_locals.get("self")
    return caller if all(hasattr(caller, name) for name in attributes) else None


def _random_states(model: keras.Model) -> list[keras.Variable]:
    """Those of the model's layers, as Dropout: files of weights do not have them."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _replace(new: Path, path: Path) -> None:
    """Rename a file that is on the disk."""
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(path)
