"""Sources of images. A source lists its inputs, describes them, and reads one.

A custom source is a class with `entries` and `read`; `examples/custom_source.py` is one.
"""

from beam_jobs.sources.files.interface import (
    BadInput,
    Entry,
    Label,
    Layout,
    LeftOut,
    Pixels,
    Problem,
    Reference,
    Reject,
    Source,
    SourceOptions,
    refuse_options,
)

__all__ = [
    "BadInput",
    "Entry",
    "Label",
    "Layout",
    "LeftOut",
    "Pixels",
    "Problem",
    "Reference",
    "Reject",
    "Source",
    "SourceOptions",
    "refuse_options",
]
