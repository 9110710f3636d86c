"""Importing Beam without its warnings, and using it without its notebooks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["with_plain_labels", "without_import_warnings"]


@contextlib.contextmanager
def without_import_warnings() -> Iterator[None]:
    """Suppress the warnings of Beam's import: it prints one for each optional package that is not installed."""
    disabled_level = logging.root.manager.disable
    logging.disable(max(disabled_level, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(disabled_level)


@contextlib.contextmanager
def with_plain_labels() -> Iterator[None]:
    """Have Beam name the steps of a pipeline as it does outside of notebooks."""
    # Inside of them it adds the number of the cell, for its interactive runner. It imports that, with its data frames,
    # which fail with pandas 3.
    from apache_beam import pipeline

    alter = pipeline.alter_label_if_ipython
    pipeline.alter_label_if_ipython = lambda *_: None
    try:
        yield
    finally:
        pipeline.alter_label_if_ipython = alter
