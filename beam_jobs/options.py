"""The options of `image-shards prepare`, and the fingerprint of the options that decide the result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from typing import Any

from beam_jobs.metadata.card import Card
from beam_jobs.sources.files.interface import SourceOptions
from shard_reader.format.fields import FORMAT_VERSION, MAX_PIXELS
from shard_reader.format.image_codecs.codec import RestartMarkers
from shard_reader.format.manifest import canonical_json
from shard_reader.storage.secrets import without_secrets

__all__ = [
    "DEPTH_DTYPES",
    "DEPTH_FILTERS",
    "DUPLICATE_LABELS",
    "FILTERS",
    "FITS",
    "MASK_DTYPES",
    "MAX_SIDE",
    "NEAR_DUPLICATES",
    "NORMALIZATIONS",
    "ImageOptions",
    "JobOptions",
    "MaxRejects",
    "ShardRule",
    "SplitRule",
    "fingerprint",
]

# The longest side of a JPEG in libjpeg. A sum of 65,500 squares of 8-bit values fits into 32 bits, too.
MAX_SIDE = 65_500
MAX_BYTES = 1 << 29  # a file is read whole into memory
# Pixels that a decoder goes over. The largest image allowed has 2.5 billion as a progressive JPEG of Pillow's, in ten
# scans without subsampling: see images/files/work.py.
MAX_WORK = 4_000_000_000
MAX_SECONDS = 120  # of one image; a fifth of a second is usual
FITS = ("cover", "crop", "pad", "inside", "stretch", "none")
CHANNELS = ("rgb", "grey", "keep")
DUPLICATE_LABELS = ("first", "drop")
NEAR_DUPLICATES = ("report", "drop", "group")
FILTERS = ("lanczos", "bicubic", "bilinear", "area", "nearest")
MASK_DTYPES = ("uint8", "uint16")
DEPTH_DTYPES = ("uint16", "float32")
DEPTH_FILTERS = ("nearest", "bilinear")
NORMALIZATIONS = ("none", "unit", "symmetric", "imagenet", "dataset", "per-image")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """The size, colours, encoding and normalization of stored images.

    With "crop", "pad" and "stretch", every image gets `height` and `width`. With "cover", each image keeps its aspect
    ratio and is the smallest that covers them; with "inside", the largest that fits into them. With `only_shrink`,
    no image is enlarged. "keep" in `channels` keeps grey (1), colour (3), and colour with transparency (4, if the
    encoding supports it); other transparency is drawn over `background`. `quality` None is the default quality of the
    encoding, and lets a JPEG file that needs no change keep its bytes. A `dtype` other than uint8 keeps the precision
    of 16-bit images. Colours are RGB, 0 to 255.
    `reject_suspects` rejects images that a decoder reads with a complaint. `max_work` is the number of pixels that a
    decoder goes over: those of the image, times the passes over them. Unless `exact_decode`, a decoder reduces a JPEG
    that is far larger than its stored size. `restart_markers` are those of JPEGs that are encoded; files that keep
    their bytes keep their markers. `dicom_window` is "default", for the window of each file, or "CENTER,WIDTH".
    """

    width: int
    height: int
    fit: str
    filter: str
    encoding: str
    quality: int | None
    dtype: str
    normalize: str
    only_shrink: bool = False
    pad_color: tuple[int, int, int] = (0, 0, 0)
    background: tuple[int, int, int] = (255, 255, 255)
    channels: str = "rgb"
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES
    max_work: int = MAX_WORK
    reject_suspects: bool = False
    exact_decode: bool = False
    restart_markers: RestartMarkers = "auto"
    dicom_window: str | None = None
    mask_border: int = 0
    mask_dtype: str = MASK_DTYPES[0]
    depth_filter: str = DEPTH_FILTERS[0]
    depth_dtype: str = DEPTH_DTYPES[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """How inputs are split: names and decimal fractions, by the hash of an id or of a group, or by class."""

    # The fractions are texts, as the user wrote them: as floats, 0.8 and 0.1 and 0.1 would not add up to 1.

    parts: tuple[tuple[str, str], ...] | None = None
    stratify: bool = False
    group_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRule:
    """The number of shards of a split: `by` is "shards" (of the largest split), "records" or "bytes" of a shard."""

    by: str
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxRejects:
    """The largest number of rejected inputs: a count, or a fraction of all inputs."""

    count: int | None = None
    fraction: str | None = None

    def of(self, inputs: int) -> int:
        """The bound for a number of inputs."""
        return self.count if self.count is not None else int(inputs * Fraction(self.fraction or 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """The options of a job, after checks: those that `PrepareOptions` and the command line have.

    `duplicate_labels` is one of DUPLICATE_LABELS, for duplicates to be dropped that have several labels; None refuses
    them. `near_duplicates` is one of NEAR_DUPLICATES, for images whose perceptual hashes differ in at most
    `near_distance` bits: to list them, to keep the largest of each group, or to keep each group in one split; None does
    not look for them. `dali_index` writes an index for DALI beside each TFRecord file. `card` has facts for the papers
    of the dataset. `exclude` are ids of inputs to leave out. An image that takes longer than `max_seconds` fails the
    job. With `append`, the inputs are added to the dataset in OUTPUT; with `replace`, they replace records of the same
    ids.
    """

    source: SourceOptions
    output: str
    image: ImageOptions
    formats: tuple[str, ...]
    split: SplitRule
    shards: ShardRule
    seed: int
    workers: int
    max_rejects: MaxRejects
    beam: dict[str, Any]
    classes: tuple[str, ...] | None = None
    drop_duplicates: bool = False
    duplicate_labels: str | None = None
    near_duplicates: str | None = None
    near_distance: int | None = None
    dali_index: bool = False
    card: Card = field(default_factory=Card)
    exclude: frozenset[str] | None = None
    max_seconds: int = MAX_SECONDS
    reject_crashers: bool = False
    overwrite: bool = False
    append: bool = False
    replace: bool = False
    price: float | None = None
    log_json: str | None = None
    report: bool = False

    def deciding(self) -> dict[str, Any]:
        """The options that decide the bytes of the dataset: not `workers`, `max_rejects` or the runner."""
        source = _changed(self.source)
        # The same inputs may come from another place: the fingerprint of the listing stands for them.
        for name in ("input", "kind", "user_agent", "requests_per_host", "download_seconds"):
            source.pop(name, None)
        for name in ("root", "below"):
            if source.get(name) is not None:
                source[name] = without_secrets(source[name])
        return {
            "source": source or None,
            "classes": list(self.classes) if self.classes else None,
            "image": _changed(self.image),
            "formats": list(self.formats),
            "split": ",".join(f"{name}={part}" for name, part in self.split.parts) if self.split.parts else None,
            "stratify": self.split.stratify or None,
            "group_by": self.split.group_by,
            "shards": asdict(self.shards),
            "seed": self.seed,
            "drop_duplicates": self.drop_duplicates or None,
            "duplicate_labels": self.duplicate_labels,
            **({} if self.near_duplicates is None else {"near_duplicates": self.near_duplicates}),
            **({} if self.near_distance is None else {"near_distance": self.near_distance}),
            "dali_index": self.dali_index or None,
            **({} if self.exclude is None else {"exclude": _digest(self.exclude)}),
        }

    @property
    def acts_on_near_duplicates(self) -> bool:
        """Whether the plan depends on near-duplicates, for which all inputs are decoded before."""
        return self.near_duplicates in ("drop", "group")

    def to_json(self) -> dict[str, Any]:
        """All options, for the manifest. Of Beam's options only the runner, since others can be secrets."""
        return {
            **self.deciding(),
            "input": without_secrets(self.source.input),
            "max_rejects": asdict(self.max_rejects),
            "runner": self.beam.get("runner"),
        }


def _digest(ids: Iterable[str]) -> str:
    """The SHA-256 of some ids: there may be too many of them to be stored."""
    return hashlib.sha256(canonical_json(sorted(ids)).encode()).hexdigest()


def _changed(options: ImageOptions | SourceOptions) -> dict[str, Any]:
    """The options that differ from their defaults, or have none.

    An option that a later version adds does not change the fingerprints of existing datasets.
    """
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    defaults = {field.name: field.default for field in fields(options)}
    changed = {name: value for name, value in values.items() if value != defaults[name]}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


def fingerprint(deciding: dict[str, Any]) -> str:
    """The SHA-256 of the options that decide the result, and of the format's version.

    Values that are None are left out: an option that a later version adds does not change existing fingerprints.
    """
    text = canonical_json(_given({"format_version": FORMAT_VERSION, **deciding}))
    return hashlib.sha256(text.encode()).hexdigest()


def _given(values: dict[str, Any]) -> dict[str, Any]:
    nested = {name: _given(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in nested.items() if value is not None}
