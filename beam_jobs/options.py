"""What a user can ask of `image-shards prepare`, and what of it decides the result."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from beam_jobs.errors import UsageError
from beam_jobs.quiet import quiet
from shard_reader.cpus import available_cpus
from shard_reader.format import ENCODINGS, FORMAT_VERSION, FORMATS, IMAGE_DTYPES, canonical_json
from shard_reader.storage import is_url, local_path

__all__ = [
    "FILTERS",
    "FITS",
    "MAX_SIDE",
    "NORMALIZATIONS",
    "ImageOptions",
    "MaxRejects",
    "PrepareOptions",
    "ShardRule",
    "fingerprint",
    "parse",
]

MAX_SIDE = 65_500  # of a JPEG, and enough for a sum of 8-bit squares along it in 32 bits
FITS = ("cover", "crop", "pad", "stretch")
FILTERS = ("lanczos", "bicubic", "bilinear", "area", "nearest")
NORMALIZATIONS = ("none", "unit", "symmetric", "imagenet", "dataset", "per-image")

_COMMANDS = "Turn raw images into training-ready shards. `image-shards prepare --help` says how."

_PREPARE = """\
Turn a folder of images into shards of TFRecord and HDF5.

INPUT is a folder of class folders (INPUT/cat/1.jpg), a folder of split folders that hold them
(INPUT/train/cat/1.jpg; splits are train, val, valid, validation and test), or a flat folder of images
without classes. OUTPUT is a directory that does not exist yet, or is empty, or holds what the same command
has left unfinished: then it goes on from there. Both are paths, or URLs such as gs://bucket/photos."""

_EPILOG = """\
Apache Beam's own options are passed on: --runner=FlinkRunner --parallelism=4 and so on. Without
--runner the job runs on this machine, on every core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """What becomes of each image.

    `height` and `width` are those of every image for "crop", "pad" and "stretch"; for "cover" each image
    keeps its aspect ratio and is the smallest that covers them.
    """

    width: int
    height: int
    fit: str
    filter: str
    encoding: str
    quality: int | None
    dtype: str
    normalize: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRule:
    """How many shards a split gets: `by` is "shards" (of the largest split), "records" or "bytes"."""

    by: str
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxRejects:
    """How many inputs may be rejected: a count, or a fraction of them all."""

    count: int | None = None
    fraction: str | None = None

    def of(self, inputs: int) -> int:
        """The bound for so many inputs."""
        return self.count if self.count is not None else int(inputs * Fraction(self.fraction or 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOptions:
    """Everything that `image-shards prepare` was asked for, checked."""

    input: str
    output: str
    image: ImageOptions
    formats: tuple[str, ...]
    split: tuple[tuple[str, str], ...] | None
    shards: ShardRule
    seed: int
    workers: int
    max_rejects: MaxRejects
    beam: dict[str, Any]
    reject_crashers: bool = False
    overwrite: bool = False
    dry_run: bool = False

    def deciding(self) -> dict[str, Any]:
        """The options that decide the bytes of the dataset: not `workers`, `max_rejects` or the runner."""
        return {
            "image": asdict(self.image),
            "formats": list(self.formats),
            "split": ",".join(f"{name}={part}" for name, part in self.split) if self.split else None,
            "shards": asdict(self.shards),
            "seed": self.seed,
        }

    def to_json(self) -> dict[str, Any]:
        """All options, for the manifest; of Beam's the runner alone, since others can be secrets."""
        return {
            **self.deciding(),
            "input": re.sub(r"//[^/@]*@", "//", self.input) if is_url(self.input) else self.input,
            "workers": self.workers,
            "max_rejects": asdict(self.max_rejects),
            "runner": self.beam.get("runner"),
        }


def fingerprint(deciding: dict[str, Any]) -> str:
    """The SHA-256 of the options that decide the result, and of the format's version.

    What is None is left out, so that an option that comes later leaves the datasets of before alone.
    """
    text = canonical_json(_given({"format_version": FORMAT_VERSION, **deciding}))
    return hashlib.sha256(text.encode()).hexdigest()


def _given(values: dict[str, Any]) -> dict[str, Any]:
    nested = {name: _given(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in nested.items() if value is not None}


def parse(arguments: Sequence[str]) -> PrepareOptions:
    """Options from the words of a command line.

    Raises:
        UsageError: one line that says which option is wrong, its value, and what it may be.
        SystemExit: after `--help` and `--version`.
    """
    from beam_jobs import __version__

    top = _Parser(prog="image-shards", allow_abbrev=False, description=_COMMANDS)
    top.add_argument("--version", action="version", version=f"image-shards {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    prepare = commands.add_parser(
        "prepare",
        allow_abbrev=False,
        help="turn a folder of images into shards",
        description=_PREPARE,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_arguments(prepare)
    beam = _add_beam_arguments(prepare, arguments)
    found, unknown = top.parse_known_args(arguments)
    if unknown:
        prepare.refuse(unknown)
    given = {n: v for n, v in vars(found).items() if n in beam and v != prepare.get_default(n)}
    if "runner" in given:
        given["runner"] = _runner(given["runner"])
    for name in ("direct_num_workers", "direct_running_mode"):
        if name in given:
            raise UsageError(f"--{name}: give --workers, which says the same of this project's processes")
    return _build(found, given)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Say which of the words that were left over is no option, and what may have been meant."""
        options = [word.split("=")[0] for word in words if word.startswith("-")]
        if not options:
            self.error(f"unexpected argument {words[0]!r}")
        close = difflib.get_close_matches(options[0], self._option_string_actions, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        self.error(f"unknown option {options[0]}: neither image-shards nor Apache Beam has it{hint}")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="INPUT", help="the folder of images")
    parser.add_argument("output", metavar="OUTPUT", help="the directory to write")
    add = parser.add_argument_group("images").add_argument
    add("--size", type=_size, default="256", metavar="N|WxH", help="pixels of an image, width x height"
        " (default: 256)")  # fmt: skip
    add("--fit", choices=FITS, help="cover: keep the aspect ratio, be the smallest that covers the size;"
        " crop: cover, then cut the middle out; pad: fit inside, black borders; stretch: ignore the aspect"
        " ratio (default: cover for one number, crop for WxH)")  # fmt: skip
    add("--filter", choices=FILTERS, default="lanczos", help="how pixels are resampled (default: lanczos)")
    add("--encoding", choices=ENCODINGS, help="how images are stored (default: jpeg; raw for float dtypes)")
    add("--quality", type=_integer(1, 100), metavar="1..100", help="of JPEG (default: 90)")
    add("--dtype", choices=IMAGE_DTYPES, help="of raw pixels (default: uint8; float32 with --normalize)")
    add("--normalize", choices=NORMALIZATIONS, default="none", help="store pixels as floats: unit: 0..1;"
        " symmetric: -1..1; imagenet, dataset, per-image: less that mean, over that standard deviation"
        " (default: none, normalise on the device)")  # fmt: skip
    add = parser.add_argument_group("shards").add_argument
    add("--format", choices=tuple(FORMATS), action="append", dest="formats", help="may be given twice: both"
        " formats then hold the same records in the same order (default: tfrecord)")  # fmt: skip
    add("--split", type=_split, metavar="NAME=F,...", help="parts that sum to 1, as train=0.9,val=0.1"
        " (default: all in train, or INPUT's split folders)")  # fmt: skip
    rule = parser._action_groups[-1].add_mutually_exclusive_group()
    rule.add_argument("--shards", type=_integer(1, 99_999), metavar="N",
        help="how many in the largest split; smaller splits get shards of the same size")  # fmt: skip
    rule.add_argument("--shard-records", type=_integer(1), metavar="N", help="at most so many records each")
    rule.add_argument("--shard-bytes", type=_bytes, default="128MB", metavar="SIZE",
        help="about so large each (default: 128MB)")  # fmt: skip
    add("--seed", type=_integer(), default=0, help="decides the order, and which images go to which split"
        " (default: 0)")  # fmt: skip
    add = parser.add_argument_group("the job").add_argument
    add("--workers", type=_integer(1), default=available_cpus(), metavar="N",
        help="processes on this machine (default: one for each CPU, here %(default)s)")  # fmt: skip
    add("--max-rejects", type=_max_rejects, default="0.01", metavar="N|F", help="how many images may be"
        " unusable before the job fails: a count, or with a point a fraction (default: 0.01)")  # fmt: skip
    add("--reject-crashers", action="store_true", help="reject an image that crashes the process which decodes"
        " it; otherwise the job fails and names it")  # fmt: skip
    add("--overwrite", action="store_true", help="remove the dataset, or the unfinished one, that is in OUTPUT,"
        " and start anew")  # fmt: skip
    add("--dry-run", action="store_true", help="show the plan, with sizes and time estimated from a few images,"
        " and touch nothing")  # fmt: skip


def _add_beam_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> set[str]:
    """Have `parser` take Beam's options too, if there is one it does not know. Their names.

    Beam drops what it does not know with a warning, and takes prefixes; one parser for all does neither.
    """
    own = parser._option_string_actions
    if not any(word.startswith("--") and word.split("=")[0] not in own for word in arguments):
        return set()
    before = {action.dest for action in parser._actions}
    group = parser.add_argument_group("Apache Beam")
    with quiet():
        from apache_beam.options.pipeline_options import PipelineOptions

        # Each view adds its own; the class of a view has no public way to list them.
        for view in PipelineOptions.__subclasses__():
            view._add_argparse_args(group)
    for action in group._group_actions:
        action.help = argparse.SUPPRESS
    return {action.dest for action in group._group_actions} - before


def _runner(text: str) -> str:
    """The name of a runner, from any spelling that Beam takes: a path to the class, or without "Runner"."""
    with quiet():
        from apache_beam.options.pipeline_options import StandardOptions
    known = {runner.rpartition(".")[2] for runner in StandardOptions.ALL_KNOWN_RUNNERS} | {"DirectRunner"}
    spellings = {spelling: name for name in known for spelling in (name.lower(), name.lower().removesuffix("runner"))}
    name = spellings.get(text.rpartition(".")[2].lower())
    if name is None:
        raise UsageError(f"--runner {text}: Apache Beam knows {', '.join(sorted(known))}")
    return name


def _build(found: argparse.Namespace, beam: dict[str, Any]) -> PrepareOptions:
    return PrepareOptions(
        input=_place(found.input, "INPUT"),
        output=_place(found.output, "OUTPUT"),
        image=_image_options(found),
        formats=tuple(name for name in FORMATS if name in (found.formats or ["tfrecord"])),
        split=found.split,
        shards=_shard_rule(found),
        seed=found.seed,
        workers=found.workers,
        max_rejects=found.max_rejects,
        reject_crashers=found.reject_crashers,
        overwrite=found.overwrite,
        dry_run=found.dry_run,
        beam=beam,
    )


def _place(path: str, name: str) -> str:
    if not path:
        raise UsageError(f"{name} is empty")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} {path!r}: is not UTF-8; rename it, or use a link") from None
    if not is_url(path):
        return str(Path(path))
    scheme, _, rest = path.partition("://")
    if not rest.strip("/"):
        raise UsageError(f"{name} {path}: is not a place; give a bucket or a folder, as {scheme}://bucket/photos")
    try:
        local_path(path)
    except ValueError as error:
        raise UsageError(f"{name} {path}: {error}") from error
    return path.rstrip("/")


def _image_options(found: argparse.Namespace) -> ImageOptions:
    width, height = found.size
    dtype = found.dtype or ("uint8" if found.normalize == "none" else "float32")
    encoding = found.encoding or ("jpeg" if dtype == "uint8" else "raw")
    if dtype != "uint8" and encoding != "raw":
        raise UsageError(f"--encoding {encoding} holds uint8 pixels only: give --encoding raw for {dtype}")
    if dtype == "uint8" and found.normalize != "none":
        raise UsageError(f"--normalize {found.normalize} gives floats: give --dtype float32 or float16")
    if found.quality is not None and encoding != "jpeg":
        raise UsageError(f"--quality {found.quality} is for JPEG, the encoding is {encoding}: leave it out")
    return ImageOptions(
        width=width,
        height=height or width,
        fit=found.fit or ("crop" if height else "cover"),
        filter=found.filter,
        encoding=encoding,
        quality=(found.quality or 90) if encoding == "jpeg" else None,
        dtype=dtype,
        normalize=found.normalize,
    )


def _shard_rule(found: argparse.Namespace) -> ShardRule:
    if found.shards is not None:
        return ShardRule(by="shards", value=found.shards)
    if found.shard_records is not None:
        return ShardRule(by="records", value=found.shard_records)
    return ShardRule(by="bytes", value=found.shard_bytes)


def _integer(low: int | None = None, high: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]+", text):
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
        value = int(text)
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"{low} to {high}" if high is not None else f"{low} or more"
            raise argparse.ArgumentTypeError(f"must be {bounds}, got {value}")
        return value

    return parse


def _size(text: str) -> tuple[int, int | None]:
    """`256` is (256, None), `224x320` is (224, 320): width and height."""
    match = re.fullmatch(r"([0-9]+)(?:x([0-9]+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected N or WxH in pixels, as 256 or 224x320, got {text!r}")
    width, height = int(match[1]), int(match[2]) if match[2] else None
    if not all(1 <= side <= MAX_SIDE for side in (width, height or width)):
        raise argparse.ArgumentTypeError(f"must be 1 to {MAX_SIDE} pixels, got {text!r}")
    return width, height


def _split(text: str) -> tuple[tuple[str, str], ...]:
    """Names and exact decimal fractions: `train=0.9,val=0.1`."""
    parts = [part.partition("=")[::2] for part in text.split(",")]
    for name, fraction in parts:
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise argparse.ArgumentTypeError(f"expected NAME=FRACTION,... as train=0.9,val=0.1, got {text!r}")
        if not re.fullmatch(r"[0-9]*\.?[0-9]+", fraction) or not 0 < Decimal(fraction) <= 1:
            raise argparse.ArgumentTypeError(f"the part of {name} must be above 0 and at most 1, got {fraction!r}")
    if len({name for name, _ in parts}) < len(parts):
        raise argparse.ArgumentTypeError(f"a name is there twice in {text!r}")
    total = sum(Fraction(fraction) for _, fraction in parts)  # exact, as sums of Decimals are not
    if total != 1:
        raise argparse.ArgumentTypeError(f"the parts of {text!r} sum to {float(total)!r}, not to 1")
    return tuple((name, f"{Decimal(fraction).normalize():f}") for name, fraction in parts)


def _bytes(text: str) -> int:
    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", text)
    if match is None or match[2].upper() not in units:
        raise argparse.ArgumentTypeError(f"expected a size as 128MB or 64MiB, got {text!r}")
    value = int(Decimal(match[1]) * units[match[2].upper()])
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1 byte, got {text!r}")
    return value


def _max_rejects(text: str) -> MaxRejects:
    if re.fullmatch(r"[0-9]+", text):
        return MaxRejects(count=int(text))
    if re.fullmatch(r"[0-9]*\.[0-9]+", text) and float(text) <= 1:
        return MaxRejects(fraction=text)
    raise argparse.ArgumentTypeError(f"expected a count as 20 or a fraction as 0.01, got {text!r}")
