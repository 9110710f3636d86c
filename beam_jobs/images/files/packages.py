"""Optional packages that read a kind of file: imported when the first file needs them."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from beam_jobs.sources.files.interface import BadInput

__all__ = ["installed", "missing", "required"]


def required(module: str, extra: str, files: str) -> Any:
    """A module of an optional package, for `files` in words.

    Raises:
        BadInput: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error.name or module, extra, files) from None


def missing(name: str, extra: str, files: str) -> BadInput:
    """The reject of a file whose package is missing."""
    return BadInput("missing-package", f"{files} need {name}: pip install 'image-shards[{extra}]'")


def installed(module: str) -> bool:
    """Whether a module could be imported."""
    return find_spec(module) is not None
