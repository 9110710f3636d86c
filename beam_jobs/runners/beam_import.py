"""Importing Beam without its warnings."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["without_import_warnings"]


@contextlib.contextmanager
def without_import_warnings() -> Iterator[None]:
    """Suppress the warnings of Beam's import: it prints one for each optional package that is not installed."""
    disabled_level = logging.root.manager.disable
    logging.disable(max(disabled_level, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(disabled_level)
