"""The options of `prepare` about INPUT: the kind of source, its columns, and its annotations."""

from __future__ import annotations

import argparse

from beam_jobs.cli.options.places import place
from beam_jobs.cli.options.targets import TARGET_COLUMNS
from beam_jobs.cli.values import names, source_kind
from beam_jobs.errors import UsageError
from beam_jobs.sources.files.interface import BOX_FORMATS, DOWNLOADS, SOURCES, SourceOptions

__all__ = ["add_sources", "source_options"]

_COLUMNS = ("id_column", "label_column", "label_separator", "split_column", "fields", "boxes", "points", "image_key")
_AS_GIVEN = (
    *_COLUMNS,
    "box_format",
    "box_frame",
    "record",
    "nested_classes",
    "class_pattern",
    "no_urls",
    *DOWNLOADS,
    *TARGET_COLUMNS,
)
"""Options of sources that are passed on as they are."""


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    add = parser.add_argument_group("where images and labels are").add_argument
    add("--source", type=source_kind, metavar="S", help=f"{', '.join(SOURCES)}, or your"
        " own module:Class (default: recognised from INPUT)")  # fmt: skip
    add("--root", metavar="DIR", help="folder of relative paths in a table (default: the table's)")
    add("--below", metavar="DIR", help="reject paths of a table that lead out of this folder")
    add("--no-urls", action="store_true", help="reject paths of a table that are URLs")
    add("--path-column", metavar="C", help="column with the path of each image (default: path, ...)")
    add("--label-column", metavar="C", help="column of names, numbers or lists (default: label, ...)")
    add("--label-separator", metavar="T", help="the text between several labels in a cell, as '|'")
    add("--split-column", metavar="C", help="column with the split of each image (default: split)")
    add("--path-suffix", metavar="TEXT", help="text to add to each path, as .jpg")
    add("--id-column", metavar="C", help="column with unique ids (default: the path or the row)")
    add("--fields", type=names, metavar="C,...", help="columns to store as fields of the records (default: all)")
    add("--boxes", type=names, metavar="C,...", help="column of lists of boxes, or four columns for one box")
    add("--box-format", choices=BOX_FORMATS, default="xyxy", metavar="B",
        help="xyxy (default), xywh or yxyx in pixels; rel-xyxy and so on from 0 to 1")  # fmt: skip
    add("--box-frame", choices=("stored", "upright"), metavar="F", help="whether boxes are of the"
        " stored image (default) or of the upright one, with EXIF orientation applied (default of YOLO)")  # fmt: skip
    add("--points", type=names, metavar="C,...", help="column of lists of points, or two columns, x and y")
    add("--image-key", metavar="K", help="feature, array or suffix (of a WebDataset) with images")
    add("--record", metavar="SPEC", help="layout of binary records, as label:u1,image:u1[3,32,32]")
    add("--classes", metavar="FILE", help="file with the class names, one a line (default: sorted)")
    add("--exclude", metavar="FILE", help="file with an id on each line: these inputs are left out")
    add("--nested-classes", action="store_true", help="name classes by whole paths of folders, as pet/cat")
    add("--class-pattern", metavar="RE", help=r"take classes from names, as '(?P<label>\w+)\.\d+\.jpg'")


def source_options(found: argparse.Namespace) -> SourceOptions:
    """The options of a command line.

    Raises:
        UsageError: an option cannot be used.
    """
    if found.label_separator == "":
        raise UsageError("--label-separator: is empty; give the text between two labels, as '|'")
    for name, sizes in (("boxes", (1, 4)), ("points", (1, 2))):
        columns = getattr(found, name)
        if columns and len(columns) not in sizes:
            raise UsageError(f"--{name} {','.join(columns)}: give one column of lists, or {sizes[1]} columns")
    return SourceOptions(
        input=place(found.input, "INPUT"),
        kind=found.source,
        root=place(found.root, "--root") if found.root is not None else None,
        path_column=found.path_column,
        path_suffix=found.path_suffix,
        below=place(found.below, "--below") if found.below is not None else None,
        **{name: getattr(found, name) for name in _AS_GIVEN},
    )
