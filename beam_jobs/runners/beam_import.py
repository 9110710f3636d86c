"""Importing Beam without its warnings."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["without_import_warnings"]


@contextlib.contextmanager
def without_import_warnings() -> Iterator[None]:
    """Hold back the warnings of Beam's import, one for each optional package that is not there."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
