"""Loaders and trainers that begin a loop over a StreamDataset, where they would divide or restore it wrongly."""

# Nobody tells a dataset that a wrapper divides its batches again, or that a trainer believes to be in another epoch.
# Both are in the calls that lead to a loop: in a worker process, too, if it was forked; otherwise in those that pickle.

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from types import FrameType
from typing import Any

from shard_reader.errors import StateError

__all__ = ["check_callers"]

Place = tuple[int, int]
"""An epoch, and a step of it."""
Values = Mapping[str, Any]
"""The local variables of a function."""

_BATCHES = (
    "a StreamDataset gives batches, and this DataLoader would make batches of batches: pass batch_size=None (in Hugging"
    " Face's Trainer, have get_train_dataloader return accelerator.prepare(DataLoader(dataset, batch_size=None)))"
)
_LEAVE_OUT = (
    "loop over the StreamDataset itself, without accelerator.prepare, for each process to read its share"
    " (device=accelerator.device)"
)
_DIVIDED = (
    "Accelerate would divide the batches of one process among {processes} processes, though they are its share of"
    " {ranks} already: most of the epoch would be left out. Pass StreamDataset(..., distributed=False), of a stream"
    f" without rank and world_size, for Accelerate to divide; or {_LEAVE_OUT}"
)
_GROUPED = (
    "Accelerate would take batches for records, and give each of {processes} processes some of them: make the"
    " Accelerator with dispatch_batches=True, and the dataset with StreamDataset(..., distributed=False); or"
    f" {_LEAVE_OUT}"
)
_ELSEWHERE = (
    "{trainer} restored epoch {epoch}, step {step}, and the stream is at epoch {place[0]}, step {place[1]}: other"
    " batches would come next. {remedy}"
)
_LIGHTNING = (
    "Give the Trainer the StreamDataset itself, which it restores, and no DataLoader, which has no position; or call"
    " dataset.set_epoch or dataset.load_state_dict yourself"
)
_HUGGING_FACE = (
    "Have get_train_dataloader return accelerator.prepare(DataLoader(dataset, batch_size=None)), which is told the"
    " epoch, or call dataset.set_epoch yourself"
)


@dataclass(frozen=True, slots=True)
class _Loop:
    """A loop that is about to begin.

    Attributes:
        ranks: the number of ranks that share the stream.
        place: the epoch and the step of its first batch.
        has_loader: a DataLoader is in between.
    """

    ranks: int
    place: Place
    has_loader: bool


def check_callers(ranks: int, place: Place) -> None:
    """Check that the loop that is about to begin gives what its loader or trainer takes it for.

    Call it in the method of the dataset that is called.

    Args:
        ranks: the number of ranks that share the stream.
        place: the epoch and the step of the loop's first batch.

    Raises:
        ValueError: a DataLoader makes batches of batches, or Accelerate divides batches that are divided already.
        StateError: a trainer was restored, and the stream was not.
    """
    caller = sys._getframe(2)
    if _function(caller) == _FETCHER and caller.f_locals["auto_collation"]:
        raise ValueError(_BATCHES)
    frame: FrameType | None = caller
    has_loader = False
    while frame is not None:
        function = _function(frame)
        has_loader = has_loader or function in _LOADERS
        # torchdata's loader has no such state where nobody restored it.
        if function in _OTHERS or (function in _LOADERS and getattr(frame.f_locals["self"], "next_iter_state", None)):
            return
        if function in _CHECKS:
            _CHECKS[function](frame.f_locals, _Loop(ranks, place, has_loader))
        frame = frame.f_back


def _function(frame: FrameType) -> tuple[str, str]:
    """The package and the name of a frame's function."""
    return str(frame.f_globals.get("__name__")).partition(".")[0], frame.f_code.co_qualname


def _refuse_division(values: Values, loop: _Loop) -> None:
    processes = values["self"].state.num_processes
    if processes > 1 and loop.ranks > 1:
        raise ValueError(_DIVIDED.format(processes=processes, ranks=loop.ranks))


def _refuse_groups(values: Values, loop: _Loop) -> None:
    raise ValueError(_GROUPED.format(processes=values["self"].num_processes))


def _check_lightning(values: Values, loop: _Loop) -> None:
    trained = values["self"]
    if not getattr(trained, "_loaded_from_state_dict", trained.restarting):
        return
    batches, epochs = trained.epoch_loop.batch_progress, trained.epoch_progress.current.started
    if not batches.is_last_batch and epochs > 0:
        # A checkpoint of the middle of a step counts it as ready, and not as completed.
        wanted = {(epochs - 1, step) for step in (batches.current.ready, batches.current.completed)}
        _check_place("Lightning", wanted, loop.place, _LIGHTNING)
    elif loop.has_loader:  # otherwise Lightning sets the epoch of its sampler
        _check_place("Lightning", {(epochs, 0)}, loop.place, _LIGHTNING)


def _check_hugging_face(values: Values, loop: _Loop) -> None:
    if values.get("resume_from_checkpoint"):
        # The Trainer itself skips the batches of the epoch that are done.
        _check_place("The Trainer", {(values["epoch"], 0)}, loop.place, _HUGGING_FACE)


def _check_place(trainer: str, wanted: Set[Place], place: Place, remedy: str) -> None:
    if place not in wanted:
        epoch, step = max(wanted)
        raise StateError(_ELSEWHERE.format(trainer=trainer, epoch=epoch, step=step, place=place, remedy=remedy))


_FETCHER = ("torch", "_IterableDatasetFetcher.__init__")
_LOADERS = {("torch", "DataLoader._get_iterator"), ("torchdata", "StatefulDataLoader._get_iterator")}
_CHECKS: Mapping[tuple[str, str], Callable[[Values, _Loop], None]] = {
    ("accelerate", "DataLoaderDispatcher.__iter__"): _refuse_division,
    ("accelerate", "DataLoaderDispatcher.set_epoch"): _refuse_division,
    ("accelerate", "IterableDatasetShard.__iter__"): _refuse_groups,
    ("accelerate", "IterableDatasetShard.set_epoch"): _refuse_groups,
    ("transformers", "IterableDatasetShard.__iter__"): _refuse_groups,
    ("lightning", "_FitLoop.setup_data"): _check_lightning,
    ("pytorch_lightning", "_FitLoop.setup_data"): _check_lightning,
    ("transformers", "Trainer._inner_training_loop"): _check_hugging_face,
    ("transformers", "Trainer._run_epoch"): _check_hugging_face,
}
"""Package and name of a calling function, and the check of its local variables."""
_OTHERS = {
    ("lightning", "_check_dataloader_iterable"),
    ("pytorch_lightning", "_check_dataloader_iterable"),
    ("transformers", "Trainer.evaluation_loop"),
}
"""Functions that begin loops which are not those of the training that calls them."""
