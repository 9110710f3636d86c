"""Beam jobs that turn raw images into the datasets that `shard_reader` streams.

Examples:
    >>> from beam_jobs import PrepareOptions, prepare
    >>> result = prepare(PrepareOptions(input="photos", output="shards", size=256))  # doctest: +SKIP
    >>> result.counts.written  # doctest: +SKIP
    300
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beam_jobs.api import dry_run, prepare
    from beam_jobs.errors import JobError, UsageError
    from beam_jobs.prepare_options import PrepareOptions
    from beam_jobs.serving import preprocess
    from beam_jobs.steps.dry_run import DryRun
    from beam_jobs.steps.result import PrepareResult, ProgressReport

__all__ = [
    "DryRun",
    "JobError",
    "PrepareOptions",
    "PrepareResult",
    "ProgressReport",
    "UsageError",
    "__version__",
    "dry_run",
    "prepare",
    "preprocess",
]

# Imported when they are asked for: the command sees Ctrl-C before NumPy is loaded, and `preprocess` needs no Beam.
_MODULES = {
    "DryRun": "steps.dry_run",
    "JobError": "errors",
    "PrepareOptions": "prepare_options",
    "PrepareResult": "steps.result",
    "ProgressReport": "steps.result",
    "UsageError": "errors",
    "dry_run": "api",
    "prepare": "api",
    "preprocess": "serving",
}


def __getattr__(name: str) -> Any:
    """A public name, or the version, which is the reader's.

    Raises:
        AttributeError: there is no such name.
        ModuleNotFoundError: a package is missing; the message names the extra.
    """
    if name == "__version__":
        from shard_reader import __version__

        return __version__
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"beam_jobs.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        extra = "preprocess" if name == "preprocess" else "beam"
        message = f"beam_jobs.{name} needs {error.name}: pip install 'image-shards[{extra}]'"
        raise ModuleNotFoundError(message, name=error.name) from error


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
