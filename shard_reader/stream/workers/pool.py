"""The worker processes of a stream, and loops over the batches that they make."""

# Each process has a pipe and memory of its own, and shares no lock with anybody: a killed process keeps the locks that
# it holds. A process that ended, for any reason, is seen at its pipe.

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing import connection
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

from numpy.typing import NDArray

from shard_reader.order.batches import BatchOrder
from shard_reader.shards.source import RecordSource
from shard_reader.stream.batch_reader import BatchReader, Made
from shard_reader.stream.workers.child import serve
from shard_reader.stream.workers.messages import Answer, Begin, Drop, InBuffer, Make, Setup
from shard_reader.stream.workers.shared_buffers import SharedBuffers
from shard_reader.stream.workers.start import new_context, packed, started
from shard_reader.system.cpus import cpus_of_this_rank

__all__ = ["WorkerBatches", "WorkerPool"]

_SHARED = 1 << 16  # bytes: smaller arrays go through the pipe
_HELD = 8  # batches that frameworks hold at a time
_LOOK_SECONDS = 5.0  # how often to look for a process whose pipe is held open by another one
_END_SECONDS = 1.0  # for processes to end by themselves
_CLOSED = "the worker processes of this loop have ended, since its stream was closed or forked, or another loop failed"


class WorkerPool:
    """The worker processes of a stream. They stay until it is closed, or garbage.

    Args:
        reader: the stream's reader, which says which arrays a batch has.
        data, order, seed: the records, and the order and the draws of the stream.

    Raises:
        TypeError: the transforms cannot be pickled, and processes are not forked.
        RuntimeError: the system starts no more processes.
    """

    def __init__(self, reader: BatchReader, data: RecordSource, order: BatchOrder, seed: int) -> None:
        self.reader, self.order, self._process = reader, order, os.getpid()
        self._numbers = itertools.count()
        self._alive = set[int]()  # the loops under way
        self._dropped = deque[int]()  # loops that the processes are still to be told about
        self._answers: dict[tuple[int, int], _Received] = {}  # by loop and step
        options = reader.options
        # A transform whose result is unknown is called here for it, once for all processes.
        sizes = {name: size for name, size in reader.fixed_bytes.items() if size >= _SHARED}
        count = min(cpus_of_this_rank() if options.threads is None else options.threads, order.steps)
        setup = Setup(data, order, seed, options, reader.probed_images, count)
        # Every process makes one batch, and the others wait to be taken.
        self.ahead = options.prefetch + count
        keep = 2 + -(-(self.ahead + _HELD) // count)
        context = new_context()
        content = packed(setup, context, options.image or options.transform)
        self._workers = list[_Worker]()
        self._end = weakref.finalize(self, _end, self._workers, self._process)
        try:
            for number in range(count):
                buffers = {name: SharedBuffers(size, keep) for name, size in sizes.items()}
                self._workers.append(_Worker(context, f"{number + 1} of {count}", content, buffers))
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """The number of processes."""
        return len(self._workers)

    @property
    def is_usable(self) -> bool:
        """Whether a loop may begin: its processes are there, and of this process."""
        return not self.is_closed and all(worker.process.is_alive() for worker in self._workers)

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, also by the end of Python, or is a copy in a process that was forked."""
        return not self._end.alive or self._process != os.getpid()

    def close(self) -> None:
        """End the processes. Loops under way fail."""
        self._end()
        self._answers.clear()

    def new_loop(self) -> int:
        """The number of a loop that is about to begin."""
        number = next(self._numbers)
        self._alive.add(number)
        return number

    def begin(self, loop: int, epoch: int, steps: range, *, cold: bool) -> None:
        """Begin a loop."""
        for key in [key for key in list(self._answers) if key[0] not in self._alive]:
            self._answers.pop(key, None)
        self._tell_of_dropped()
        count = len(self._workers)
        for turn, worker in enumerate(self._workers):
            # Those of loops that broke off: nobody else takes them, and each holds the memory of a batch.
            while worker.has_answer():
                self._take(worker)
            self._make_room(worker)
            first, every = steps.start + turn * steps.step, steps.step * count
            worker.send(Begin(loop, epoch, first, every, cold, self.reader.has_checked_all))

    def ask(self, loop: int, turn: int, step: int) -> None:
        """Have a process make a batch of a loop.

        Args:
            turn: the number of the step in the loop.

        Raises:
            RuntimeError: the processes have ended.
        """
        if self.is_closed:
            raise RuntimeError(_CLOSED)
        self._tell_of_dropped()
        worker = self._workers[turn % len(self._workers)]
        self._make_room(worker)
        worker.ask(loop, step)

    def receive(self, loop: int, turn: int, step: int) -> _Received:
        """A batch that was asked for.

        Raises:
            RuntimeError: a process has ended.
            BaseException: the error of the batch.
        """
        worker = self._workers[turn % len(self._workers)]
        while True:
            found = self._answers.pop((loop, step), None)
            if found is not None:
                return found
            if self.is_closed:
                raise RuntimeError(_CLOSED)
            # Threads with a loop each receive for each other.
            with worker.receiving:
                if (loop, step) not in self._answers:
                    self._receive(worker)

    def drop(self, loop: int) -> None:
        """End a loop."""
        self._alive.discard(loop)
        if self.is_closed:
            return
        for key in [key for key in list(self._answers) if key[0] == loop]:
            self._answers.pop(key, None)
        # A loop may end as garbage, wherever this thread is: it waits for no lock.
        self._dropped.append(loop)
        self._tell_of_dropped()

    def _tell_of_dropped(self) -> None:
        while self._dropped:
            with contextlib.suppress(IndexError):
                loop = self._dropped.popleft()
                for worker in self._workers:
                    if not worker.send(Drop(loop), wait=False):
                        self._dropped.append(loop)
                        return

    def _make_room(self, worker: _Worker) -> None:
        """Take answers until there is room for a message."""
        # A process whose answers nobody takes waits with the next one, and reads no messages. If this one waited until
        # they are read, both would wait for ever.
        while not worker.has_room():
            self._take(worker)

    def _take(self, worker: _Worker) -> None:
        """Take an answer that is there, if no other thread does."""
        with worker.receiving:
            if worker.has_answer():
                self._receive(worker)

    def _receive(self, worker: _Worker) -> None:
        """Wait for an answer, and take it."""
        worker.wait()
        try:
            self._keep(worker, worker.receive())
        except BaseException:
            # Also after Ctrl-C: half a message may be left in the pipe.
            self.close()
            raise

    def _keep(self, worker: _Worker, answer: Answer) -> None:
        """Note an answer, or free its memory if its loop is over."""
        if answer.loop is None:
            assert answer.failure is not None
            raise answer.failure.error()
        self.reader.counters.add_all(replace(answer.fetched, stalled_seconds=0.0))  # also for a loop that is over
        buffers = worker.asked.pop((answer.loop, answer.step))
        arrays = dict[str, Any]()
        if answer.loop in self._alive:
            for name, values in (answer.arrays or {}).items():
                if isinstance(values, InBuffer):
                    arrays[name] = worker.buffers[name].lease(buffers.pop(name), values.shape, values.dtype)
                else:
                    arrays[name] = values
        for name, number in buffers.items():
            worker.buffers[name].give_back(number)
        if answer.loop in self._alive:
            self._answers[answer.loop, answer.step] = _Received(answer, arrays)


class WorkerBatches:
    """The batches of an epoch from a step on, in order, made by worker processes.

    Args:
        first: the step of the first batch.
        every: take one in so many steps.
        cold: announce bytes to the kernel from the first batch on.

    Attributes:
        has_waited: whether a process has waited for a page from the disk.
        workers: the number of processes.
        tally: counts of the loop.
    """

    def __init__(self, pool: WorkerPool, epoch: int, first: int, *, every: int = 1, cold: bool) -> None:
        self._pool, self._epoch, self._cold = pool, epoch, cold
        self._steps = range(first, max(first, pool.order.steps), every)
        self._loop: int | None = None
        self.has_waited, self.workers, self.tally = False, pool.size, pool.reader.counters.new_tally()

    def __iter__(self) -> Iterator[Made]:
        pool, steps = self._pool, self._steps
        self._loop = loop = pool.new_loop()
        pool.begin(loop, self._epoch, steps, cold=self._cold)
        asked = 0
        for turn, step in enumerate(steps):
            while asked < min(len(steps), turn + pool.ahead):
                pool.ask(loop, asked, steps[asked])
                asked += 1
            yield self._received(turn, step)

    def cancel(self) -> None:
        """Drop the batches that have not begun."""
        self.tally.is_done = True
        if self._loop is not None:
            self._pool.drop(self._loop)

    def _received(self, turn: int, step: int) -> Made:
        assert self._loop is not None
        began = time.perf_counter()
        answer, arrays = self._pool.receive(self._loop, turn, step)
        waited = time.perf_counter() - began
        reader = self._pool.reader
        # Processes wait side by side, and only a part of it makes the loop wait.
        reader.counters.add(stalled_seconds=min(waited, answer.fetched.stalled_seconds))
        if answer.failure is not None:
            raise answer.failure.error()
        self.has_waited = self.has_waited or answer.has_waited
        reader.note_checked(self._epoch, step)
        return Made(step, answer.coverage, arrays, answer.skipped)


class _Received(NamedTuple):
    answer: Answer
    arrays: dict[str, NDArray[Any]]


class _Worker:
    """One process, its pipe, and the memory that is shared with it."""

    def __init__(
        self, context: BaseContext, name: str, content: Setup | bytes, buffers: dict[str, SharedBuffers]
    ) -> None:
        self.name, self.buffers = name, buffers
        self.asked: dict[tuple[int, int], dict[str, int]] = {}  # by loop and step: the buffers of each array
        self.receiving, self._sending = threading.Lock(), threading.RLock()
        self._has_answered, self._is_forked = False, context.get_start_method() == "fork"
        self._pipe, other = context.Pipe()
        try:
            name = f"shard_reader-worker-{name.partition(' ')[0]}"
            self.process = started(context, serve, name, other, content, buffers, os.getpid())
        finally:
            other.close()  # otherwise the pipe would stay open when the process ends

    def ask(self, loop: int, step: int) -> None:
        """Ask for a batch."""
        with self._sending:
            buffers = {name: shared.take() for name, shared in self.buffers.items()}
            self.asked[loop, step] = buffers
            self.send(Make(loop, step, dict(buffers)))

    def send(self, message: Begin | Make | Drop | None, *, wait: bool = True) -> bool:
        """Send a message. If the process has ended, `receive` raises the error.

        Args:
            wait: wait for another thread that sends, and for room.

        Returns:
            whether it was sent.
        """
        if not self._sending.acquire(blocking=wait):
            return False
        try:
            if not wait and not self._events(select.POLLOUT, 0):
                return False
            with contextlib.suppress(OSError):
                self._pipe.send(message)
        finally:
            self._sending.release()
        return True

    def has_answer(self) -> bool:
        """Whether an answer is there, or the process has ended."""
        return bool(self._events(select.POLLIN, 0))

    def has_room(self) -> bool:
        """Wait for room for a message, or for an answer. Whether there is room, or the process has ended."""
        return bool(self._events(select.POLLIN | select.POLLOUT, None) & ~select.POLLIN)

    def _events(self, wanted: int, timeout: int | None) -> int:
        poll = select.poll()
        poll.register(self._pipe, wanted)
        return sum(events for _, events in poll.poll(timeout))

    def wait(self) -> None:
        """Wait for an answer, or the end of the process."""
        while not connection.wait([self._pipe], _LOOK_SECONDS):
            if not self.process.is_alive() and not self._pipe.poll():
                raise self._death()

    def receive(self) -> Answer:
        """The next answer.

        Raises:
            RuntimeError: the process has ended.
        """
        try:
            answer: Answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._death() from None
        self._has_answered = True
        return answer

    def free_memory(self) -> None:
        """Free the memory that is shared with the process, which has ended."""
        while self.asked:
            for name, number in self.asked.popitem()[1].items():
                self.buffers[name].give_back(number)
        for buffers in self.buffers.values():
            buffers.close()

    def _death(self) -> RuntimeError:
        """The error for a process that has ended."""
        self.process.join(_LOOK_SECONDS)
        code, number = self.process.exitcode, self.process.pid
        why, remedy = f"ended with exit status {code}", "its output says why"
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                why = f"was ended by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            why += ", by the system for want of memory, or by hand"
            remedy = "take fewer processes (threads=), or a smaller batch_size or prefetch"
        elif code and code > 0 and not self._has_answered and not self._is_forked:
            remedy += '; a script whose functions are transforms needs if __name__ == "__main__": around its loop'
        return RuntimeError(f"worker process {self.name} (process {number}) {why}: {remedy}")


def _end(workers: Sequence[_Worker], process: int) -> None:
    """End processes, and free the memory that is shared with them."""
    if process != os.getpid():
        return
    # A process that is in the middle of a batch may hold locks of the user's transforms: it has a moment to end it.
    asked = [worker for worker in workers if worker.send(None, wait=False)]
    give_up = time.monotonic() + _END_SECONDS
    for worker in asked:
        worker.process.join(max(0.0, give_up - time.monotonic()))
    for worker in workers:
        worker.process.kill()
        worker.process.join()
        worker.free_memory()
