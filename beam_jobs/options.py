"""The options of `image-shards prepare`, and the ones that decide the result."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

from beam_jobs.sources.files.interface import SourceOptions
from shard_reader.format.fields import FORMAT_VERSION
from shard_reader.format.manifest import canonical_json
from shard_reader.storage.secrets import without_secrets

__all__ = [
    "FILTERS",
    "FITS",
    "MAX_SIDE",
    "NORMALIZATIONS",
    "ImageOptions",
    "MaxRejects",
    "PrepareOptions",
    "ShardRule",
    "SplitRule",
    "fingerprint",
]

MAX_SIDE = 65_500  # of a JPEG, and enough for a sum of 8-bit squares along it in 32 bits
MAX_PIXELS = 178_956_970  # where Pillow, too, takes an image for a decompression bomb
MAX_BYTES = 1 << 29  # a file is read whole
FITS = ("cover", "crop", "pad", "inside", "stretch", "none")
CHANNELS = ("rgb", "grey", "keep")
FILTERS = ("lanczos", "bicubic", "bilinear", "area", "nearest")
NORMALIZATIONS = ("none", "unit", "symmetric", "imagenet", "dataset", "per-image")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """What becomes of each image.

    `height` and `width` are those of every image for "crop", "pad" and "stretch"; for "cover" each image
    keeps its aspect ratio and is the smallest that covers them, for "inside" the largest that fits into them.
    With `only_shrink` nothing is made larger. "keep" in `channels` keeps grey (1), colour (3), and colour
    with transparency (4, where the encoding can hold it). Transparency goes over `background` otherwise.
    `quality` None, where the encoding has one, is the default quality, and lets a JPEG file that needs no change
    keep its bytes. A `dtype` other than uint8 keeps the precision of 16-bit images. Colours are RGB, 0 to 255.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """How inputs are split: names with exact decimal fractions, by the hash of an id, of a group, or by class."""

    parts: tuple[tuple[str, str], ...] | None = None
    stratify: bool = False
    group_by: str | None = None


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
    reject_crashers: bool = False
    overwrite: bool = False
    dry_run: bool = False

    def deciding(self) -> dict[str, Any]:
        """The options that decide the bytes of the dataset: not `workers`, `max_rejects` or the runner."""
        source = _changed(self.source)
        for name in ("input", "kind"):  # where the same listing comes from
            source.pop(name, None)
        if self.source.root is not None:
            source["root"] = without_secrets(self.source.root)
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
        }

    def to_json(self) -> dict[str, Any]:
        """All options, for the manifest; of Beam's the runner alone, since others can be secrets."""
        return {
            **self.deciding(),
            "input": without_secrets(self.source.input),
            "workers": self.workers,
            "max_rejects": asdict(self.max_rejects),
            "runner": self.beam.get("runner"),
        }


def _changed(options: ImageOptions | SourceOptions) -> dict[str, Any]:
    """The options that have no default, or are not at it: one that comes later leaves the datasets of before alone."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    defaults = {field.name: field.default for field in fields(options)}
    changed = {name: value for name, value in values.items() if value != defaults[name]}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


def fingerprint(deciding: dict[str, Any]) -> str:
    """The SHA-256 of the options that decide the result, and of the format's version.

    What is None is left out, so that an option that comes later leaves the datasets of before alone.
    """
    text = canonical_json(_given({"format_version": FORMAT_VERSION, **deciding}))
    return hashlib.sha256(text.encode()).hexdigest()


def _given(values: dict[str, Any]) -> dict[str, Any]:
    nested = {name: _given(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in nested.items() if value is not None}
