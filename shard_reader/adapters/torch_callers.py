"""Loaders and trainers that begin a loop over a StreamDataset: the batches that they share, skip and expect."""

# Nobody tells a dataset that a wrapper divides its batches again, takes them in advance, or believes to be in another
# epoch. All of it is in the calls that lead to a loop: in a worker process, too, if it was forked; otherwise in those
# that pickle.

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from shard_reader.errors import StateError

__all__ = [
    "NO_POSITION",
    "TAKEN_IN_ADVANCE",
    "Callers",
    "Place",
    "callers",
    "counting_loader",
    "is_len_of_dispatcher",
]

Place = tuple[int, int]
"""An epoch, and a step of it."""
Values = Mapping[str, Any]
"""The local variables of a function."""

TAKEN_IN_ADVANCE = (
    "Accelerate takes batches in advance for several processes: the position is known only if they share the stream"
    " (distributed=True), or loop over the StreamDataset itself"
)
NO_POSITION = (
    "the state is of a process that Accelerate handed its batches: the main process has the position, and its state is"
    " the one to save (with use_stateful_dataloader=True, Accelerate lets any process write it: leave that out, and"
    " call accelerator.register_for_checkpointing(dataset))"
)
_BATCHES = (
    "a StreamDataset gives batches, and this DataLoader would make batches of batches: pass batch_size=None (in Hugging"
    " Face's Trainer, have get_train_dataloader return DataLoader(self.train_dataset, batch_size=None))"
)
_LEAVE_OUT = "or loop over the StreamDataset itself (device=accelerator.device), for each process to read its share"
_RANKS = (
    "Accelerate hands out what one process reads to {processes} processes, and the stream is shared by {ranks} ranks:"
    f" take a stream without rank and world_size; {_LEAVE_OUT}"
)
_WORKERS = (
    "num_workers={workers}: Accelerate has one process read for all {ranks} ranks, and a DataLoader's workers cannot"
    f" make the shares of several: take num_workers=0, as the stream itself decodes in threads; {_LEAVE_OUT}"
)
_GROUPED = (
    "Accelerate would take batches for records, and give each of {processes} processes some of them: leave"
    f" dispatch_batches=False out; {_LEAVE_OUT}"
)
_ELSEWHERE = (
    "{trainer} restored epoch {wanted[0]}, step {wanted[1]}, and the stream was restored to epoch {place[0]}, step"
    " {place[1]}: restore both from one checkpoint, or only one of them"
)
_SKIPPED = (
    "the loader skips {skipped} batches, and the stream was restored to step {step} of its epoch: restore the position,"
    " or skip the batches that are done, but not both"
)


@dataclass(frozen=True, slots=True)
class Callers:
    """The loaders and the trainer that begin a loop.

    Attributes:
        processes: the number of processes to which Accelerate hands out the batches of one; 0 if it does not.
        is_ahead: the loader takes each batch before the one before it is used.
        skipped: the number of batches that the loader takes and leaves out.
        trainer: the name of a trainer that was restored.
        wanted: the place that this trainer restored.
        near: places of a stream that the same trainer restored, at another moment of the same step.
    """

    processes: int = 0
    is_ahead: bool = False
    skipped: int = 0
    trainer: str = ""
    wanted: Place | None = None
    near: frozenset[Place] = frozenset()

    def start(self, place: Place, is_restored: bool) -> Place:
        """The first place of the loop of a stream that is at `place`.

        Args:
            is_restored: the stream was given a position, which no loop has left since.

        Raises:
            StateError: the trainer and the stream were restored to different places.
        """
        if self.skipped and place[1]:
            # The batches that are done are skipped by the loader, which counts from the start of the epoch.
            if place[1] != self.skipped:
                raise StateError(_SKIPPED.format(skipped=self.skipped, step=place[1]))
            place = place[0], 0
        if self.wanted is None or place == self.wanted:
            return place
        if is_restored and place not in self.near:
            raise StateError(_ELSEWHERE.format(trainer=self.trainer, wanted=self.wanted, place=place))
        return self.wanted


def callers(ranks: int) -> Callers:
    """The callers of the method of the dataset that calls this function.

    Args:
        ranks: the number of ranks that share the stream.

    Raises:
        ValueError: a DataLoader makes batches of batches, or Accelerate divides batches as it cannot.
    """
    frame: FrameType | None = sys._getframe(2)
    found, is_told, keeps_state = Callers(), False, False
    while frame is not None:
        package, name = function = _function(frame)
        values = frame.f_locals
        if function in _OTHERS:
            break
        if function == _FETCHER and values["auto_collation"]:
            raise ValueError(_BATCHES)
        if package == "torchdata" and name == "StatefulDataLoader._get_iterator":
            # It keeps the position itself, and asks for it before it takes a batch. Where it was restored, it restores
            # the dataset.
            keeps_state, is_told = True, is_told or bool(values["self"].next_iter_state)
        if name == "IterableDatasetShard.__iter__" and package in ("accelerate", "transformers"):
            raise ValueError(_GROUPED.format(processes=values["self"].num_processes))
        # torchdata's loader begins its first loop when it is asked for a state, as it is made.
        if function in _DISPATCH:
            found = replace(found, processes=_processes(frame, ranks))
        if function in _ONE_AHEAD:
            found = replace(found, is_ahead=not keeps_state)
        if function in _SKIP:
            found = replace(found, skipped=values["self"].skip_batches)
        if function in _TRAINERS and not is_told and found.wanted is None:
            found = replace(found, **_TRAINERS[function](values))
        frame = frame.f_back
    return found


def counting_loader(ranks: int) -> Any:
    """Accelerate's loader that begins a loop, and passes the number of its loops as an epoch to the calling method.

    Raises:
        ValueError: Accelerate would divide the batches as it cannot.
    """
    caller = sys._getframe(2)
    package, name = _function(caller)
    if package != "accelerate" or caller.f_back is None:
        return None
    if name == "IterableDatasetShard.set_epoch":
        raise ValueError(_GROUPED.format(processes=caller.f_locals["self"].num_processes))
    if name == "DataLoaderDispatcher.set_epoch":
        _processes(caller, ranks)
    is_loop = _function(caller.f_back)[1] in ("DataLoaderDispatcher.__iter__", "DataLoaderShard.__iter__")
    return caller.f_locals["self"] if is_loop else None


def is_len_of_dispatcher() -> bool:
    """Whether Accelerate asks the calling method for a length that it divides by the number of processes."""
    caller = sys._getframe(2).f_back
    return caller is not None and _function(caller) == ("accelerate", "DataLoaderDispatcher.__len__")


def _function(frame: FrameType) -> tuple[str, str]:
    """The package and the name of a frame's function."""
    return str(frame.f_globals.get("__name__")).partition(".")[0], frame.f_code.co_qualname


def _processes(frame: FrameType, ranks: int) -> int:
    """The number of processes to which a loader hands out the batches of one of them; `frame` is of its method."""
    loader = frame.f_locals["self"]
    is_copied = getattr(loader, "submesh_tp", None) is not None  # every process gets the same batch
    processes = 1 if is_copied else int(frame.f_globals["PartialState"]().num_processes)
    if ranks > 1 and processes != ranks:
        raise ValueError(_RANKS.format(processes=processes, ranks=ranks))
    if ranks > 1 and loader.num_workers:
        raise ValueError(_WORKERS.format(workers=loader.num_workers, ranks=ranks))
    return processes


def _lightning(values: Values) -> dict[str, Any]:
    trained = values["self"]
    if not getattr(trained, "_loaded_from_state_dict", trained.restarting):
        return {}
    batches, epochs = trained.epoch_loop.batch_progress, trained.epoch_progress.current.started
    if batches.is_last_batch or epochs == 0:
        return {"trainer": "Lightning", "wanted": (epochs, 0)}
    # `processed` counts the steps of the optimizer. A checkpoint in the middle of a step counts its batch as ready, so
    # that the stream is after it, and one at the end of a step does not count it as completed yet.
    current = batches.current
    near = frozenset((epochs - 1, step) for step in (current.ready, current.completed))
    return {"trainer": "Lightning", "wanted": (epochs - 1, current.processed), "near": near}


def _hugging_face(values: Values) -> dict[str, Any]:
    trainer = values["self"]
    # With `ignore_data_skip` the Trainer leaves the position to others.
    if not values.get("resume_from_checkpoint") or "epoch" not in values or trainer.args.ignore_data_skip:
        return {}
    return {"trainer": "The Trainer", "wanted": (values["epoch"], 0)}  # it skips the batches that are done itself


_FETCHER = ("torch", "_IterableDatasetFetcher.__init__")
_DISPATCH = {("accelerate", "DataLoaderDispatcher.__init__"), ("accelerate", "DataLoaderDispatcher.__iter__")}
"""Package and name of functions of loaders that hand out the batches of one process."""
_SKIP = {
    ("accelerate", "DataLoaderDispatcher.__iter__"),
    ("accelerate", "DataLoaderShard.__iter__"),
    ("accelerate", "SkipDataLoader.__iter__"),
}
"""Functions of loaders that skip batches."""
_ONE_AHEAD = (_SKIP - {("accelerate", "SkipDataLoader.__iter__")}) | {("timm", "PrefetchLoader.__iter__")}
"""Functions of loaders that take a batch before they give the one before it."""
_TRAINERS = {
    ("lightning", "_FitLoop.setup_data"): _lightning,
    ("pytorch_lightning", "_FitLoop.setup_data"): _lightning,
    ("transformers", "Trainer._inner_training_loop"): _hugging_face,
    ("transformers", "Trainer._run_epoch"): _hugging_face,
}
"""Functions of trainers, and the place that their local variables tell."""
_OTHERS = {
    ("lightning", "_check_dataloader_iterable"),
    ("pytorch_lightning", "_check_dataloader_iterable"),
    ("transformers", "CallbackHandler.call_event"),
    ("transformers", "Trainer._evaluate"),
    ("transformers", "Trainer.evaluation_loop"),
}
"""Functions that begin loops which are not those of the training that calls them."""
