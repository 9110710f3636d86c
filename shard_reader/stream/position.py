"""The position of a stream: its epoch and step, and the records that it has given of the epoch."""

from __future__ import annotations

from typing import Any

from shard_reader.arguments import as_integer
from shard_reader.errors import StateError
from shard_reader.order.batches import BatchOrder
from shard_reader.order.coverage import Coverage
from shard_reader.order.record_order import LAST_EPOCH
from shard_reader.printable import excerpt
from shard_reader.shards.source import RecordSource
from shard_reader.stream.batch_reader import Skipped

__all__ = ["Position", "translated"]

_STATE_VERSION = 1
_SHOWN = 600  # characters of an identity in messages


class Position:
    """Where a stream is in its epochs, as integers and text, and the records that it has given of the epoch.

    Args:
        seed: the seed of the order.
        block: number of records to count at a time.

    Attributes:
        epoch: the epoch of the next batch.
        step: number of batches of that epoch that are done.
        is_begun: a loop has begun this epoch, so the next loop begins the next one. False after `load`.
        is_restored: a position was loaded, and no loop has begun since.
        moves: how often the stream was iterated or given a position.
        coverage: coverage of the epoch of the last batch.
    """

    # A position does not know about transforms. It says which records come next; a user who changes the augmentation
    # for the second half of a training does so on purpose, and can still resume.

    def __init__(self, data: RecordSource, order: BatchOrder, seed: int, block: int) -> None:
        self._data, self._order, self._seed = data, order, seed
        self._block = max(1, block // order.share)  # in steps
        self.epoch, self.step, self.is_begun, self.is_restored = 0, 0, False, False
        self.moves = 0
        # The epoch of the last batch. At the end of an epoch `epoch` is already the next one, and users ask for the
        # coverage of the one that they have just finished.
        self._counted_epoch = 0
        self.coverage = Coverage()
        self._skipped: list[tuple[int, Skipped]] = []  # with their steps

    @property
    def next(self) -> tuple[int, int]:
        """The epoch and the step of the first batch of the next loop."""
        return (self.epoch + 1, 0) if self.is_begun else (self.epoch, self.step)

    @property
    def skipped(self) -> list[Skipped]:
        """The damaged records of the epoch of the last batch that had weight 0."""
        return [one for _, one in self._skipped]

    def begin(self) -> tuple[int, int]:
        """Go to the start of the next loop; its epoch and step."""
        self.is_restored = False
        if self.is_begun:
            self._move_to(self.epoch + 1, 0)
        if self.step == 0:
            self._count_from(self.epoch, Coverage())
        return self.epoch, self.step

    def advance(self, epoch: int, step: int, coverage: Coverage, skipped: list[Skipped]) -> None:
        """Go past the batch of a step, and count it."""
        self._move_to(epoch, step + 1)
        self.coverage += coverage
        if skipped:
            self.coverage += Coverage(skipped=len(skipped))
            self._skipped += [(step, one) for one in skipped]

    def end(self, epoch: int) -> None:
        """A loop has given all of an epoch."""
        # Also for a rank without a batch in the epoch: otherwise it would stay in this epoch while the others leave it.
        self.is_begun = self.is_begun or epoch == self.epoch

    def state(self) -> dict[str, Any]:
        """The position after the last batch, as values that JSON can hold."""
        return self._state(self.epoch, self.step, self.coverage if self.step else Coverage())

    def state_at(self, step: int, epoch: int | None) -> dict[str, Any]:
        """The position after the first `step` batches of an epoch, by default that of the last batch.

        Raises:
            ValueError: an epoch has no such step.
        """
        step, epoch = as_integer("step", step), self._counted_epoch if epoch is None else as_integer("epoch", epoch)
        steps = self._order.epoch_steps
        if epoch < 0 or not 0 <= step <= steps:
            raise ValueError(f"step={step!r}, epoch={epoch!r}: an epoch has {steps} steps")
        if step == steps:
            return self._state(epoch + 1, 0, Coverage())
        return self._state(epoch, step, self._coverage_at(epoch, step))

    def load(self, state: dict[str, Any]) -> None:
        """Go to a position that `state` returned, in a stream of any rank and world size.

        Raises:
            StateError: the position is of another dataset or order; the message shows both.
        """
        epoch, step = self.check(state)
        self._go_to(epoch, step, self._restored_coverage(state, epoch, step))
        self.is_restored = True

    def set_epoch(self, epoch: int, *, is_left: bool) -> None:
        """Go to the start of an epoch, unless the next loop is in it already.

        Args:
            is_left: loops of other processes have left the position, which is lost then.

        Raises:
            StateError: a position of another epoch was loaded, and no loop has begun since.
        """
        if self.next[0] == epoch and not is_left:
            return
        if self.is_restored and not is_left:
            raise StateError(
                f"set_epoch({epoch}) would lose the restored position, epoch {self.epoch}, step {self.step}: begin with"
                " that epoch in the trainer or loader, too (loader.set_epoch), or do not restore the position"
            )
        self._go_to(epoch, 0, Coverage())

    def check(self, state: dict[str, Any]) -> tuple[int, int]:
        """The epoch and the step of a position, without going there.

        Raises:
            StateError: the position is of another dataset or order; the message shows both.
        """
        if not isinstance(state, dict):
            raise StateError(f"{excerpt(state)} is no state: pass the result of state_dict()")
        expected = self._identity()
        found = {name: state.get(name) for name in expected}
        if not _are_equal(found, expected):
            self._check_generation(found)
            shown, own = excerpt(found, _SHOWN), excerpt(expected, _SHOWN)
            raise StateError(f"the state is of another stream:\n  state:  {shown}\n  stream: {own}")
        epoch, step = state.get("epoch"), state.get("step")
        steps = self._order.epoch_steps
        if not isinstance(epoch, int) or not isinstance(step, int):
            raise StateError(f"epoch={excerpt(epoch)}, step={excerpt(step)}: must be integers")
        if not 0 <= epoch <= LAST_EPOCH or not 0 <= step <= steps:
            raise StateError(
                f"epoch={excerpt(epoch)}, step={excerpt(step)}: an epoch of this stream has {steps} steps, and the last"
                f" is epoch {LAST_EPOCH}"
            )
        return epoch, step

    def to_plain(self) -> dict[str, Any]:
        """All of the position as numbers and text, for a copy of the stream in another process."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "is_begun": self.is_begun,
            "moves": self.moves,
            "counted_epoch": self._counted_epoch,
            "coverage": self.coverage.to_json(),
            "skipped": [(step, one.record, one.reason) for step, one in self._skipped],
        }

    def restore(self, plain: dict[str, Any]) -> None:
        """Become the position that `to_plain` described."""
        self.epoch, self.step = plain["epoch"], plain["step"]
        # A copy made in the middle of an epoch is like a position that was loaded: no loop of it has broken off.
        self.is_begun = plain["is_begun"] and self.step == 0
        self.moves, self._counted_epoch = plain["moves"], plain["counted_epoch"]
        self.coverage = Coverage.from_json(plain["coverage"])
        self._skipped = [(step, Skipped(record, reason)) for step, record, reason in plain["skipped"]]

    def _go_to(self, epoch: int, step: int, coverage: Coverage) -> None:
        self.moves += 1
        self._move_to(epoch, step)
        self.is_begun = self.is_restored = False
        self._count_from(self.epoch, coverage)

    def _move_to(self, epoch: int, step: int) -> None:
        # After the last step comes step 0 of the next epoch: one position has one spelling. An epoch without steps
        # (fewer records than a batch, remainder="drop") ends when its loop does.
        if 0 < self._order.epoch_steps <= step:
            epoch, step = epoch + 1, 0
        self.epoch, self.step, self.is_begun = epoch, step, step > 0

    def _count_from(self, epoch: int, coverage: Coverage) -> None:
        self._counted_epoch, self.coverage, self._skipped = epoch, coverage, []

    def _identity(self) -> dict[str, Any]:
        """The records and the order that a state refers to; a stream of others rejects the state."""
        return {
            "version": _STATE_VERSION,
            "dataset": self._data.fingerprint,
            "batch_size": self._order.batch_size,
            "seed": self._seed,
            "remainder": self._order.remainder,
            **self._order.record_order.identity(),
        }

    def _check_generation(self, found: dict[str, Any]) -> None:
        """Check that a state of other records is not of another generation of the dataset."""
        here, dataset = self._data.generation, found["dataset"]
        other = self._data.generation_of(dataset) if isinstance(dataset, str) else None
        if other is not None and other.number != here:
            both = f"the state is of generation {other.number}, the stream is of generation {here} of {self._data.name}"
            if other.is_removed:
                raise StateError(f"{both}, and `compact` has removed the former: begin again without the state")
            raise StateError(
                f"{both}: open the dataset with generation={other.number} to go on, or begin again without the state"
            )

    def _state(self, epoch: int, step: int, coverage: Coverage) -> dict[str, Any]:
        share = {"rank": self._order.rank, "world_size": self._order.world_size}
        # For people: the fingerprint in the identity says it, too. A state without it is of the first generation.
        generation = {"generation": number} if (number := self._data.generation or 1) > 1 else {}
        return self._identity() | generation | {"epoch": epoch, "step": step, "coverage": share | coverage.to_json()}

    def _coverage_at(self, epoch: int, step: int) -> Coverage:
        """The coverage of an epoch before a step: as counted where batches were given, elsewhere as ordered."""
        if epoch != self._counted_epoch:
            return self._ordered(epoch, 0, step)
        here = self.step if epoch == self.epoch else self._order.epoch_steps
        if step >= here:
            return self.coverage + self._ordered(epoch, here, step)
        skipped = sum(at >= step for at, _ in self._skipped)
        return self.coverage - self._ordered(epoch, step, here) - Coverage(skipped=skipped)

    def _ordered(self, epoch: int, first: int, stop: int) -> Coverage:
        """The coverage of steps `first` to `stop`, without it, as the order gives them to this rank."""
        order, total = self._order, Coverage()
        stop = min(stop, order.steps)
        for start in range(first, stop, self._block):
            positions = order.positions(start, min(start + self._block, stop))
            records = order.record_order.at(epoch, positions)
            total += Coverage.of(records[~order.record_order.is_padding(epoch, positions)])
        return total

    def _restored_coverage(self, state: dict[str, Any], epoch: int, step: int) -> Coverage:
        raw = state.get("coverage")
        if step in (0, self._order.epoch_steps):
            return Coverage()
        # A coverage counts the records of one rank among so many. Another rank's says nothing about this one's share.
        share = (self._order.rank, self._order.world_size)
        if not isinstance(raw, dict) or (raw.get("rank"), raw.get("world_size")) != share:
            return self._ordered(epoch, 0, step)
        try:
            return Coverage.from_json(raw)
        except ValueError as error:
            raise StateError(f"coverage={error}") from None


def _are_equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    try:
        return one == other
    except (RecursionError, ValueError):  # nested too deeply; arrays
        return False


def translated(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a stream, from the attributes of one pickled before November 2026: see `old_pickles.py`."""
    reader = state["_reader"]
    position = {
        "epoch": state["_epoch"],
        "step": state["_step"],
        "is_begun": state["_begun"],
        "moves": state["_moves"],
        "counted_epoch": state["_last_epoch"],
        "coverage": state["_coverage"].to_json(),
        "skipped": [
            (step, one.record, one.reason) for step, one in zip(state["_skipped_at"], state["_skipped"], strict=True)
        ],
    }
    return {
        "data": state["data"],
        "order": state["order"].to_plain(),
        "seed": state["seed"],
        "options": reader.options.to_plain(),
        "probed_image": None if reader._pixels is None else reader._pixels._probed,
        "position": position,
        "has_verified": state["_has_looked"],
        "was_cold": state["_was_cold"],
    }
