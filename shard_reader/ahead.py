"""The batches of an epoch, the next few of them made ahead by threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

try:
    import resource
except ModuleNotFoundError:  # not Unix
    resource = None  # type: ignore[assignment]

from shard_reader.coverage import Coverage, hash_sums
from shard_reader.order import Order
from shard_reader.plan import Pending, Plan
from shard_reader.plans import LocalPlans, Plans, RemotePlans
from shard_reader.reading import Reader

__all__ = ["Ahead", "Begun", "major_faults"]


class Begun(NamedTuple):
    """A batch that threads make, its step, and what its records count for."""

    pending: Pending
    step: int
    coverage: Coverage


class Ahead:
    """The batches of an epoch from a step on, in order, the next few of them under way.

    Args:
        first: the step of the first of them.
        every: take one in so many steps.
        verify: check images against their checksums.
        cold: tell the kernel which bytes will be needed, from the first batch on.

    Attributes:
        has_waited: whether this process has waited for the disk to give a page.
    """

    _getpid = staticmethod(os.getpid)  # when Python exits, its module may be gone before the last loop

    def __init__(
        self, reader: Reader, order: Order, epoch: int, first: int, *, every: int = 1, verify: bool, cold: bool
    ) -> None:
        self._reader, self._order, self._first, self._every = reader, order, first, every
        self._verify, self._cold, self._faults = verify, cold, major_faults()
        self.has_waited = False
        self._begun: deque[Begun] = deque()
        self._process = self._getpid()
        self._plans: Plans
        if reader.is_remote:
            self._plans = RemotePlans(reader, order, epoch, first, every)
        else:
            self._plans = LocalPlans(reader, order, epoch, first)

    def __iter__(self) -> Iterator[Begun]:
        for begun in self._begin():
            if begun is None:  # the next plan is not there yet: what is begun need not wait for it
                while self._begun and not self._plans.is_ready():
                    yield self._begun.popleft()
                continue
            self._begun.append(begun)
            if len(self._begun) > self._reader.options.prefetch:
                yield self._begun.popleft()
        while self._begun:
            yield self._begun.popleft()

    def cancel(self) -> None:
        """Leave what is not begun; what threads are at ends in memory that nobody holds."""
        if self._process == self._getpid():  # otherwise a thread may have held a lock when this process was forked
            self._plans.close()
            for begun in self._begun:
                begun.pending.cancel()
        self._begun.clear()

    def _begin(self) -> Iterator[Begun | None]:
        """Each batch, begun; None before a plan that has to be waited for."""
        while True:
            if not self._plans.is_ready():
                yield None
            found = self._plans.next()
            if found is None:
                return
            plan, stop = found
            coverages = _coverages(plan, self._order.share)
            for step, coverage in zip(range(plan.first, stop), coverages, strict=True):
                if (step - self._first) % self._every:
                    continue
                # Announcing costs time where everything is in memory; a page that was not shows that it is worth it.
                self.has_waited = self.has_waited or major_faults() > self._faults
                cold = self._cold or self.has_waited
                pending = self._reader.begin(plan, self._reader.places(plan, step), verify=self._verify, cold=cold)
                yield Begun(pending, step, coverage)
                del pending
            del found, plan  # its memory is for the next one


def _coverages(plan: Plan, share: int) -> list[Coverage]:
    """That of each batch of a plan."""
    counted = plan.picks.weights > 0
    starts = np.arange(0, len(counted), share)
    counts = np.add.reduceat(counted, starts, dtype=np.int64).tolist()
    return list(map(Coverage, counts, hash_sums(plan.picks.records, counted, starts).tolist()))


def major_faults() -> int:
    """How many pages this process has waited for the disk to give."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt if resource else 0
