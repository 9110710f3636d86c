"""`image-shards prepare`: from words to options, and from the result to text."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from beam_jobs.cli.options.downloads import add_downloads
from beam_jobs.cli.options.duplicates import add_duplicates, duplicate_options
from beam_jobs.cli.options.jpeg import add_jpeg, exact_decode, restart_markers
from beam_jobs.cli.options.papers import add_papers, place_and_card
from beam_jobs.cli.options.planning import add_planning, planning_options
from beam_jobs.cli.parser import command_parser, listed
from beam_jobs.cli.values import byte_size, color, image_size, integer, max_rejects, names, source_kind, split_parts
from beam_jobs.errors import JobError, UsageError
from beam_jobs.images.decode import ignore_image_warnings
from beam_jobs.options import (
    CHANNELS,
    FILTERS,
    FITS,
    MAX_SECONDS,
    MAX_WORK,
    NORMALIZATIONS,
    ImageOptions,
    PrepareOptions,
    ShardRule,
    SplitRule,
)
from beam_jobs.runners.beam_import import without_import_warnings
from beam_jobs.sources.files.class_names import read_class_names, read_ids
from beam_jobs.sources.files.interface import BOX_FORMATS, DOWNLOADS, SOURCES, SourceOptions
from beam_jobs.steps.prepare import prepare
from shard_reader.format.fields import IMAGE_DTYPES, MAX_PIXELS
from shard_reader.format.image_codecs.codec import ImageCodec
from shard_reader.format.image_codecs.table import IMAGE_CODECS, codec_for
from shard_reader.format.manifest import FORMATS
from shard_reader.printable import printable_lines
from shard_reader.storage.open import is_url, local_path
from shard_reader.storage.secrets import without_secrets
from shard_reader.system.cpus import available_cpus

__all__ = ["parse", "run"]

_PREPARE = """\
Turn images into shards of TFRecord and HDF5.

INPUT is a folder of images, in class folders (INPUT/cat/1.jpg), split folders (INPUT/train/cat/1.jpg) or
flat; a table (.csv .tsv .jsonl .parquet); COCO instances (.json); an archive (.tar .zip); or records (.tfrecord
.h5 .npy .npz). OUTPUT is a new or empty directory, or the unfinished dataset of the same command, which then
continues. Both are paths, or URLs such as gs://bucket/photos."""

_EXAMPLE = "image-shards prepare photos shards --size 256 --split train=0.9,val=0.1"

_NOTES = """\
A column is a column of a table, a key of a WebDataset's JSON, or a feature or array of records. A color is
R,G,B or #rrggbb or a name. Options of Apache Beam are passed on, such as --runner=FlinkRunner. Without
--runner the job runs on all cores of this machine."""


def parse(arguments: Sequence[str]) -> PrepareOptions:
    """Parse a command line: `prepare`, and the words after it.

    Raises:
        UsageError: an option is wrong; the message names it, its value, and the allowed values.
        SystemExit: after `--help`.
    """
    parser = command_parser("prepare", "INPUT OUTPUT [options]", _PREPARE, _EXAMPLE, _NOTES)
    _add_arguments(parser)
    beam = _add_beam_arguments(parser, arguments)
    found, unknown = parser.parse_known_args(arguments[1:])
    if unknown:
        parser.refuse(unknown, "neither image-shards nor Apache Beam has it")
    given = {n: v for n, v in vars(found).items() if n in beam and v != parser.get_default(n)}
    if "runner" in given:
        given["runner"] = _runner(given["runner"])
    # These would set the number of Beam's own processes, which do no work here.
    for name in ("direct_num_workers", "direct_running_mode"):
        if name in given:
            raise UsageError(f"--{name}: give --workers, which says the same of this project's processes")
    return _build(found, given)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="INPUT", help=argparse.SUPPRESS)
    parser.add_argument("output", metavar="OUTPUT", help=argparse.SUPPRESS)
    _add_common(parser)
    _add_sources(parser)
    add_downloads(parser)
    add_duplicates(parser)
    _add_pixels(parser)
    _add_splits(parser)
    add_papers(parser)
    add_planning(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("common options").add_argument
    add("--size", type=image_size, metavar="N|WxH", help="width x height in pixels (default: 256)")
    add("--fit", choices=FITS, metavar="FIT", help="cover: resize the short side; inside: resize the long side; crop:"
        " cover, then cut the center; pad: inside, then add a border; stretch: ignore the aspect ratio; none: keep the"
        " size (default: cover for N, crop for WxH)")  # fmt: skip
    add("--format", choices=tuple(FORMATS), action="append", dest="formats", metavar="FORMAT",
        help="tfrecord or hdf5; give it twice for both (default: tfrecord)")  # fmt: skip
    add("--split", type=split_parts, metavar="NAME=F,...", help="divide images by a hash of their id, as"
        " train=0.9,val=0.1 (default: the splits of INPUT, or all in train)")  # fmt: skip
    add("--encoding", choices=tuple(IMAGE_CODECS), metavar="E", help=f"{listed(tuple(IMAGE_CODECS), 'or')} (default:"
        f" {codec_for('uint8').name}; {codec_for('float32').name} for other dtypes than uint8)")  # fmt: skip
    add("--workers", type=integer(1), default=available_cpus(), metavar="N",
        help="processes on this machine (default: one for each CPU, here %(default)s)")  # fmt: skip
    add("--max-rejects", type=max_rejects, default="0.01", metavar="N|F", help="fail if more inputs than"
        " this number or fraction cannot be used (default: 0.01)")  # fmt: skip
    add("--dry-run", action="store_true", help="print the plan and estimates, and write nothing")
    add("--report", action="store_true", help="write report.html, too: the dataset in pictures")
    add("--overwrite", action="store_true", help="first remove the finished or unfinished dataset in OUTPUT")


def _add_sources(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("where images and labels are").add_argument
    add("--source", type=source_kind, metavar="S", help=f"{', '.join(SOURCES)}, or the"
        " module:Class of your own source (default: recognised from INPUT)")  # fmt: skip
    add("--root", metavar="DIR", help="the folder of relative paths in a table (default: the table's folder)")
    add("--below", metavar="DIR", help="reject paths of a table outside of this folder; links are followed")
    add("--no-urls", action="store_true", help="reject paths of a table that are URLs")
    add("--path-column", metavar="C", help="the column with the path of each image (default: path, file, ...)")
    add("--label-column", metavar="C", help="the column with labels: names, numbers or lists (default: label, ...)")
    add("--label-separator", metavar="T", help="the text between several labels in a cell, as '|'")
    add("--split-column", metavar="C", help="the column with the split of each image (default: split, if it exists)")
    add("--path-suffix", metavar="TEXT", help="text to add to each path, as .jpg")
    add("--id-column", metavar="C", help="the column with unique ids (default: the path or the row)")
    add("--fields", type=names, metavar="C,...", help="columns to store as fields of the records (default: all)")
    add("--boxes", type=names, metavar="C,...", help="one column with lists of boxes, or four columns for one box")
    add("--box-format", choices=BOX_FORMATS, default="xyxy", metavar="B",
        help="xyxy (default), xywh or yxyx in pixels; rel-xyxy and so on from 0 to 1")  # fmt: skip
    add("--box-frame", choices=("stored", "upright"), default="stored", metavar="F", help="whether boxes"
        " are of the stored image (default) or of the upright one, with EXIF orientation applied")  # fmt: skip
    add("--points", type=names, metavar="C,...", help="one column with lists of points, or two columns, x and y")
    add("--image-key", metavar="K", help="feature, array or suffix (of a WebDataset) with images")
    add("--record", metavar="SPEC", help="layout of binary records, as label:u1,image:u1[3,32,32]")
    add("--classes", metavar="FILE", help="file with the class names, one a line (default: sorted)")
    add("--exclude", metavar="FILE", help="file with an id on each line: these inputs are left out")
    add("--nested-classes", action="store_true", help="name classes by whole paths of folders, as pet/cat")


def _add_pixels(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("pixels").add_argument
    add("--only-shrink", action="store_true", help="never make an image larger (cover, inside, pad)")
    add("--filter", choices=FILTERS, default="lanczos", metavar="FILTER",
        help=", ".join(FILTERS).replace("lanczos", "lanczos (default)"))  # fmt: skip
    add("--quality", type=integer(1, 100), metavar="1..100", help=f"quality of {_qualities()};"
        " without it, a JPEG file that needs no change keeps its bytes")  # fmt: skip
    add_jpeg(add)
    add("--pad-color", type=color, metavar="COLOR", help="color of the border of --fit pad (default: black)")
    add("--background", type=color, default="white", metavar="COLOR",
        help="color below transparent pixels (default: white)")  # fmt: skip
    add("--channels", choices=CHANNELS, default="rgb", metavar="CH",
        help="rgb, grey, or keep: as in the file (default: rgb)")  # fmt: skip
    add("--dtype", choices=IMAGE_DTYPES, metavar="D", help="uint8, uint16, float16 or float32 (default: uint8; float32"
        " with --normalize)")  # fmt: skip
    add("--normalize", choices=NORMALIZATIONS, default="none", metavar="HOW", help="unit: 0..1; symmetric: -1..1;"
        " imagenet, dataset, per-image: subtract that mean, divide by that deviation (default: none)")  # fmt: skip
    add("--max-pixels", type=integer(1), default=MAX_PIXELS, metavar="N",
        help="reject images with more pixels (default: %(default)s)")  # fmt: skip
    add("--max-bytes", type=byte_size, default="512MiB", metavar="SIZE",
        help="reject image files with more bytes (default: 512MiB)")  # fmt: skip
    add("--max-work", type=integer(1), default=MAX_WORK, metavar="N",
        help="reject images whose decoder would touch more pixels, passes counted (default: %(default)s)")  # fmt: skip
    add("--max-seconds", type=integer(1), default=MAX_SECONDS, metavar="S", help="fail if the decoding of one image"
        " takes longer (default: %(default)s)")  # fmt: skip


def _add_splits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("splits and shards").add_argument
    add("--stratify", action="store_true", help="divide each class in the same proportion")
    add("--group-by", metavar="FIELD", help="keep images with the same value in one split; folder: of the same folder")
    rule = parser._action_groups[-1].add_mutually_exclusive_group()
    rule.add_argument("--shards", type=integer(1, 99_999), metavar="N",
        help="number of shards in the largest split; others get shards of that size")  # fmt: skip
    rule.add_argument("--shard-records", type=integer(1), metavar="N", help="most records in a shard")
    rule.add_argument("--shard-bytes", type=byte_size, default="128MB", metavar="SIZE",
        help="approximate size of a shard (default: 128MB)")  # fmt: skip
    add("--seed", type=integer(), default=0, help="seed of the order and the splits (default: 0)")
    add("--reject-crashers", action="store_true", help="reject images that crash their decoder (default: fail)")
    add("--reject-suspects", action="store_true",
        help="reject images that may be damaged (default: list them)")  # fmt: skip


def _add_beam_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> set[str]:
    """Add Beam's options to `parser`, if a word is not an option of its own. Returns their names."""
    # Beam's own parser drops unknown options with a warning, and accepts prefixes of options. In one parser for both, a
    # mistyped option is an error. Beam is imported only if there is an option of it: that takes a second.
    own = parser._option_string_actions
    if not any(word.startswith("--") and word.split("=")[0] not in own for word in arguments):
        return set()
    own_names = {action.dest for action in parser._actions}
    group = parser.add_argument_group("Apache Beam")
    with without_import_warnings():
        from apache_beam.options.pipeline_options import PipelineOptions

        # Each view of Beam's options adds its own. There is no public way to list them.
        for view in PipelineOptions.__subclasses__():
            view._add_argparse_args(group)
    for action in group._group_actions:
        action.help = argparse.SUPPRESS
    return {action.dest for action in group._group_actions} - own_names


def _runner(text: str) -> str:
    """The name of a runner, from any of Beam's spellings: a path to the class, or without "Runner"."""
    with without_import_warnings():
        from apache_beam.options.pipeline_options import StandardOptions
    known = {runner.rpartition(".")[2] for runner in StandardOptions.ALL_KNOWN_RUNNERS} | {"DirectRunner"}
    spellings = {spelling: name for name in known for spelling in (name.lower(), name.lower().removesuffix("runner"))}
    name = spellings.get(text.rpartition(".")[2].lower())
    if name is None:
        raise UsageError(f"--runner {text}: Apache Beam knows {', '.join(sorted(known))}")
    return name


def _build(found: argparse.Namespace, beam: dict[str, Any]) -> PrepareOptions:
    formats = tuple(name for name in FORMATS if name in (found.formats or [next(iter(FORMATS))]))
    output, card = place_and_card(found, _place(found.output, "OUTPUT"), formats)
    return PrepareOptions(
        source=_source_options(found),
        output=output,
        image=_image_options(found),
        formats=formats,
        split=_split_rule(found),
        shards=_shard_rule(found),
        seed=found.seed,
        workers=found.workers,
        max_rejects=found.max_rejects,
        classes=read_class_names(found.classes) if found.classes is not None else None,
        **duplicate_options(found),
        dali_index=found.dali_index,
        card=card,
        exclude=read_ids(found.exclude) if found.exclude is not None else None,
        max_seconds=found.max_seconds,
        reject_crashers=found.reject_crashers,
        overwrite=found.overwrite,
        **planning_options(found),
        report=found.report,
        beam=beam,
    )


_COLUMNS = ("id_column", "label_column", "label_separator", "split_column", "fields", "boxes", "points", "image_key")
_AS_GIVEN = (*_COLUMNS, "box_format", "box_frame", "record", "nested_classes", "no_urls", *DOWNLOADS)
"""Options of sources that are passed on as they are."""


def _source_options(found: argparse.Namespace) -> SourceOptions:
    if found.label_separator == "":
        raise UsageError("--label-separator: is empty; give the text between two labels, as '|'")
    for name, sizes in (("boxes", (1, 4)), ("points", (1, 2))):
        columns = getattr(found, name)
        if columns and len(columns) not in sizes:
            raise UsageError(f"--{name} {','.join(columns)}: give one column of lists, or {sizes[1]} columns")
    return SourceOptions(
        input=_place(found.input, "INPUT"),
        kind=found.source,
        root=_place(found.root, "--root") if found.root is not None else None,
        path_column=found.path_column,
        path_suffix=found.path_suffix,
        below=_place(found.below, "--below") if found.below is not None else None,
        **{name: getattr(found, name) for name in _AS_GIVEN},
    )


def _split_rule(found: argparse.Namespace) -> SplitRule:
    if found.stratify and found.group_by is not None:
        raise UsageError("--stratify: does not go with --group-by, which keeps groups whole; leave one out")
    for name, given in (("--stratify", found.stratify), ("--group-by", found.group_by)):
        if given and found.split is None:
            raise UsageError(f"{name}: says how to split; give --split, as train=0.9,val=0.1")
    return SplitRule(parts=found.split, stratify=found.stratify, group_by=found.group_by)


def _place(path: str, name: str) -> str:
    if not path:
        raise UsageError(f"{name} is empty")
    # Names of files in INPUT need not be UTF-8, but the manifest holds this path.
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} {path!r}: is not UTF-8; rename it, or use a link") from None
    try:
        local_path(path)
    except ValueError as error:
        raise UsageError(f"{name} {path}: {error}") from error
    if not is_url(path):
        return str(Path(path))
    scheme, _, rest = path.partition("://")
    if not rest.strip("/"):
        raise UsageError(f"{name} {path}: is not a place; give a bucket or a folder, as {scheme}://bucket/photos")
    return path.rstrip("/")


def _image_options(found: argparse.Namespace) -> ImageOptions:
    width, height = found.size or (256, None)
    fit = found.fit or ("crop" if height else "cover")
    dtype = found.dtype or ("uint8" if found.normalize == "none" else "float32")
    encoding = found.encoding or codec_for(dtype).name
    _check_image_options(found, fit, dtype, encoding)
    # Sizes mean nothing here: one value, so that the fingerprint is the same.
    if fit == "none":
        width, height = 0, 0
    return ImageOptions(
        width=width,
        height=width if height is None else height,
        fit=fit,
        filter=found.filter,
        encoding=encoding,
        quality=found.quality,
        restart_markers=restart_markers(found, encoding),
        dtype=dtype,
        normalize=found.normalize,
        only_shrink=found.only_shrink,
        pad_color=found.pad_color or (0, 0, 0),
        background=found.background,
        channels=found.channels,
        max_pixels=found.max_pixels,
        max_bytes=found.max_bytes,
        max_work=found.max_work,
        reject_suspects=found.reject_suspects,
        exact_decode=exact_decode(found, fit),
    )


def _check_image_options(found: argparse.Namespace, fit: str, dtype: str, encoding: str) -> None:
    """Check that options about pixels fit each other.

    Raises:
        UsageError: two options contradict each other; the message has a remedy.
    """
    normalize, channels, codec = found.normalize, found.channels, IMAGE_CODECS[encoding]
    if normalize != "none" and found.dtype is not None and not dtype.startswith("float"):
        raise UsageError(f"--normalize {normalize} gives floats: give --dtype float32 or float16")
    if normalize != "none" and "float32" not in codec.dtypes:
        raise UsageError(
            f"--normalize {normalize} gives floats, and --encoding {encoding} stores 8 bits: give --encoding"
            f" {_encodings(lambda codec: 'float32' in codec.dtypes)}, or normalise on the device, with the mean and std"
            " of the manifest"
        )
    if dtype not in codec.dtypes:
        others = _encodings(lambda codec: dtype in codec.dtypes)
        held = " and ".join(codec.dtypes)
        raise UsageError(f"--encoding {encoding} holds {held} pixels only: give --encoding {others} for {dtype}")
    if found.quality is not None and codec.quality is None:
        lossy = listed([codec.label for codec in IMAGE_CODECS.values() if codec.quality is not None], "and")
        raise UsageError(f"--quality {found.quality} is for {lossy}, the encoding is {encoding}: leave it out")
    if channels == "grey" and 1 not in codec.channels:
        others = _encodings(lambda codec: 1 in codec.channels)
        raise UsageError(f"--channels grey: {codec.label} has no grey images; give --encoding {others}")
    if (channels, normalize) in {("grey", "imagenet"), ("keep", "imagenet"), ("keep", "dataset")}:
        needs = "three channels" if normalize == "imagenet" else "the same channels in every image"
        raise UsageError(f"--normalize {normalize}: needs {needs}, and not --channels {channels}")
    if fit == "none" and found.size is not None:
        raise UsageError("--size: --fit none keeps the size of each image; leave one out")
    if found.only_shrink and fit not in ("cover", "inside", "pad"):
        raise UsageError(f"--only-shrink: is for --fit cover, inside or pad, not for {fit}")
    if found.pad_color is not None and fit != "pad":
        raise UsageError(f"--pad-color: is for --fit pad, not for {fit}; leave it out")


def _encodings(fits: Callable[[ImageCodec], bool]) -> str:
    """The names of the encodings that fit, as the end of a sentence."""
    return listed([name for name, codec in IMAGE_CODECS.items() if fits(codec)], "or")


def _qualities() -> str:
    """The encodings with a quality, each with its default."""
    lossy = [codec for codec in IMAGE_CODECS.values() if codec.quality is not None]
    return listed([f"{codec.label} (default: {codec.quality})" for codec in lossy], "and")


def _shard_rule(found: argparse.Namespace) -> ShardRule:
    if found.shards is not None:
        return ShardRule(by="shards", value=found.shards)
    if found.shard_records is not None:
        return ShardRule(by="records", value=found.shard_records)
    return ShardRule(by="bytes", value=found.shard_bytes)


def run(arguments: Sequence[str]) -> int:
    """Run `image-shards prepare`, and return the exit status.

    Raises:
        JobError: the job failed, or cannot start.
    """
    ignore_image_warnings()
    summary = prepare(parse(arguments))
    try:
        print(printable_lines(without_secrets(summary)), flush=True)  # noqa: T201
    except OSError as error:  # a script that reads the summary has to know that it is missing
        raise JobError(f"the dataset is whole, but standard output cannot be written ({error.strerror})") from error
    return 0
