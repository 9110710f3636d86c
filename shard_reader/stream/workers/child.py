"""A worker process: it makes the batches that it is asked for, one after the other, in one thread."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from shard_reader.order.batches import BatchOrder
from shard_reader.stream.batch_reader import BatchReader, Made
from shard_reader.stream.prefetch import Prefetch
from shard_reader.stream.workers.messages import Answer, Begin, Drop, Failure, InBuffer, Make, Setup
from shard_reader.stream.workers.shared_buffers import SharedBuffers
from shard_reader.system.memory_map import address
from shard_reader.system.stats import Stats
from shard_reader.transforms.libraries.generators import give_up_generators

__all__ = ["serve"]

_LOOK_SECONDS = 5.0  # how often to look whether the parent is there


def serve(pipe: Connection, setup: Setup | bytes, buffers: dict[str, SharedBuffers], parent: int) -> NoReturn:
    """Make batches until the parent says that it is enough, or is gone.

    Args:
        setup: pickled where the process was not forked.
        parent: the number of the parent process.
    """
    _end_with(parent)
    _take_signals()
    if os.getppid() == parent:
        # Objects of the parent's are never collected here: libraries do not expect it.
        gc.freeze()
    # For libraries that the transforms load later.
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        worker = _Worker(pipe, _unpacked(setup) if isinstance(setup, bytes) else setup, buffers)
        _use_one_thread()
        give_up_generators()
    except BaseException as error:
        pipe.send(Answer(None, 0, failure=Failure.of(error)))
    else:
        worker.run()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    # Not by the ends of modules and threads, which are copies of the parent's after a fork.
    os._exit(0)


class _Worker:
    """The loops of a worker process, and the batches that it was asked for."""

    def __init__(self, pipe: Connection, setup: Setup, buffers: dict[str, SharedBuffers]) -> None:
        self._pipe, self._data, self._order = pipe, setup.data, setup.order
        self._reader = BatchReader(setup.data, setup.order, setup.seed, setup.options, readers=setup.workers)
        self._reader.probed_images = setup.probed_images
        self._memory = {name: _Lent(shared) for name, shared in buffers.items()}
        self._reader.take_memory_of(self._memory)
        self._loops: dict[int, _WorkerLoop] = {}
        self._wanted: deque[Make] = deque()
        self._told = Stats()

    def run(self) -> None:
        """Answer messages until the parent ends."""
        while self._take_messages():
            wanted = self._wanted.popleft()
            answer = self._answer(wanted)
            try:
                self._pipe.send(answer)
            except OSError:
                return
            del answer

    def _take_messages(self) -> bool:
        """Wait until a batch is wanted; False at the end."""
        # All messages that are there, since one of them may end the loop of a wanted batch.
        try:
            while not self._wanted or self._pipe.poll():
                message = self._pipe.recv()
                if message is None:
                    return False
                self._take(message)
        except (EOFError, OSError):
            return False
        return True

    def _take(self, message: Begin | Make | Drop) -> None:
        if isinstance(message, Make):
            self._wanted.append(message)
        elif isinstance(message, Drop):
            self._drop(message.loop)
        else:
            self._reader.has_checked_all = message.has_checked_all
            self._loops[message.loop] = _WorkerLoop(self._reader, self._order, message)

    def _drop(self, number: int) -> None:
        loop = self._loops.pop(number, None)
        if loop is not None:
            loop.prefetch.cancel()

    def _answer(self, wanted: Make) -> Answer:
        loop = self._loops.get(wanted.loop)
        if loop is None:
            return Answer(wanted.loop, wanted.step)
        for name, number in wanted.buffers.items():
            self._memory[name].number = number
        try:
            made = loop.next(wanted.step)
            arrays = {name: self._sent(name, values, wanted) for name, values in made.batch.items()}
        except BaseException as error:
            self._drop(wanted.loop)
            return Answer(wanted.loop, wanted.step, fetched=self._fetched(), failure=Failure.of(error))
        return Answer(
            wanted.loop,
            wanted.step,
            arrays,
            made.coverage,
            made.skipped,
            self._fetched(),
            loop.prefetch.has_waited,
        )

    def _sent(self, name: str, values: NDArray[Any], wanted: Make) -> NDArray[Any] | InBuffer:
        """An array of a batch, in the buffer that is there for it, if it fits."""
        if name not in wanted.buffers or values.dtype.hasobject or not 0 < values.nbytes <= self._memory[name].size:
            return values
        target = self._memory[name].array(values.shape, values.dtype)
        # Images are made there. Other arrays, and those of small raw images, are copied.
        if address(target) != address(values) or not values.flags.c_contiguous:
            target[...] = values
        return InBuffer(values.shape, values.dtype)

    def _fetched(self) -> Stats:
        """Requests and bytes since the last call."""
        total = self._data.fetched() + self._reader.counters.total
        more, self._told = total - self._told, total
        return more


class _WorkerLoop:
    """The batches of one loop that this process makes."""

    def __init__(self, reader: BatchReader, order: BatchOrder, begin: Begin) -> None:
        # None in advance: each is begun when there is memory for it.
        self.prefetch = Prefetch(reader, order, begin.epoch, begin.first, every=begin.every, cold=begin.cold, ahead=0)
        self._batches: Iterator[Made] | None = None

    def next(self, step: int) -> Made:
        """The batch of a step, which is the next one."""
        if self._batches is None:
            self._batches = iter(self.prefetch)
        made = next(self._batches, None)
        if made is None or made.step != step:
            raise RuntimeError(f"a worker process has made step {made and made.step} in place of {step}")
        return made


class _Lent:
    """The memory of a batch: the shared buffer that was named for it."""

    def __init__(self, buffers: SharedBuffers) -> None:
        self._buffers, self.size, self.number = buffers, buffers.size, 0

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any] | str) -> NDArray[Any]:
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        return self._buffers.memory(self.number)[:size].view(dtype).reshape(shape)

    def close(self) -> None:
        """Nothing: the parent frees it."""


def _unpacked(setup: bytes) -> Setup:
    """What was pickled for a process that was not forked.

    Raises:
        TypeError: a function or a class of the user is not where this process looks for it.
    """
    try:
        found: Setup = pickle.loads(setup)
    except AttributeError as error:
        raise TypeError(
            f"a transform is not found in worker processes, which are not forked ({error}): define functions and"
            ' classes in a module, or at the top of a script, not in a notebook or below if __name__ == "__main__":'
        ) from error
    return found


def _take_signals() -> None:
    """Leave Ctrl-C to the parent, and end by SIGTERM, whatever the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


def _use_one_thread() -> None:
    """Have libraries that are loaded use one thread in each process."""
    torch, cv2 = sys.modules.get("torch"), sys.modules.get("cv2")
    if torch is not None:
        torch.set_num_threads(1)
    if cv2 is not None:
        cv2.setNumThreads(0)


def _end_with(parent: int) -> None:
    """End this process when its parent has ended for any reason."""
    # A killed parent cannot end its children, and a process that decodes does not read its pipe.
    threading.Thread(target=_watch, args=(parent,), name="shard_reader-watch", daemon=True).start()


def _watch(parent: int) -> None:
    found = multiprocessing.parent_process()
    assert found is not None
    # Other processes that the parent has forked may hold the other end of the sentinel.
    is_child = os.getppid() == parent
    while not connection.wait([found.sentinel], _LOOK_SECONDS):
        if is_child and os.getppid() != parent:
            break
    os._exit(1)
