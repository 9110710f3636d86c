"""The options of `prepare` as one dataclass, with the names of the command line.

A file of `--config` has the same names and values, in YAML.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any, Final, Literal

from beam_jobs.errors import UsageError
from beam_jobs.safe_yaml import load_yaml
from beam_jobs.sources.files.file_names import split_place
from shard_reader.printable import excerpt, printable
from shard_reader.storage.open import directory

__all__ = ["PrepareOptions", "is_list", "read_config", "words_of"]

Place = str | os.PathLike[str]
"""A path, or a URL."""

Color = str | tuple[int, int, int]
"""A name of CSS, `#rrggbb`, or R, G and B from 0 to 255."""

Names = str | Sequence[str]
"""One name, or several."""

_MOST_BYTES: Final = 1 << 20  # of a file of --config
_PLACES: Final = ("input", "output")
_PLAIN: Final = (str, int, float, os.PathLike)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOptions:
    """All options of `image-shards prepare`: `--label-column y` is `label_column="y"`.

    None and False stand for an option that is not given. `image-shards help prepare` explains every option and
    its default. Values are checked when the job begins.

    Attributes:
        input: the folder or file of images.
        output: the place of the dataset.
        size: N, or width and height in pixels.
        format: "tfrecord", "hdf5", or both.
        split: the fraction of each split: `{"train": 0.9, "val": 0.1}`.
        max_rejects: a count (int), or a fraction (float) of all inputs.
        source: the name of a source, "module:Class", or a class derived from `Source`, in a module that worker
            processes can import.
        classes: the file with the names of the classes, or the names themselves in a list.
        exclude: the file with the ids of inputs to leave out, or the ids themselves in a list.
        max_bytes, shard_bytes: a number of bytes, or a text such as "512MiB".
        price: for `dry_run` alone.
        beam: options of Apache Beam: `{"runner": "FlinkRunner", "flink_master": "localhost:8081"}`.
    """

    input: Place
    output: Place

    size: int | tuple[int, int] | str | None = None
    fit: Literal["cover", "crop", "pad", "inside", "stretch", "none"] | None = None
    format: Names | None = None
    split: Mapping[str, float | str] | str | None = None
    encoding: str | None = None
    workers: int | None = None
    max_rejects: int | float | str | None = None
    report: bool = False
    overwrite: bool = False
    append: bool = False
    replace: bool = False

    source: str | type | None = None
    root: Place | None = None
    below: Place | None = None
    no_urls: bool = False
    path_column: str | None = None
    label_column: str | None = None
    label_separator: str | None = None
    split_column: str | None = None
    path_suffix: str | None = None
    id_column: str | None = None
    fields: Names | None = None
    boxes: Names | None = None
    box_format: str | None = None
    box_frame: Literal["stored", "upright"] | None = None
    points: Names | None = None
    image_key: str | None = None
    record: str | None = None
    classes: Place | Sequence[str] | None = None
    exclude: Place | Sequence[str] | None = None
    nested_classes: bool = False
    class_pattern: str | None = None

    image_columns: Names | None = None
    mask_column: str | None = None
    segments: Literal["mask", "instances", "rle", "polygons"] | None = None
    allow_missing: Names | None = None
    mask_border: int | None = None
    mask_dtype: Literal["uint8", "uint16"] | None = None
    depth_filter: Literal["nearest", "bilinear"] | None = None
    depth_dtype: Literal["uint16", "float32"] | None = None

    user_agent: str | None = None
    requests_per_host: int | None = None
    download_seconds: int | None = None
    ignore_opt_out: bool = False
    respect_robots: bool = False

    drop_duplicates: bool = False
    duplicate_labels: Literal["first", "drop"] | None = None
    near_duplicates: Literal["report", "drop", "group"] | None = None
    near_distance: int | None = None

    only_shrink: bool = False
    filter: Literal["lanczos", "bicubic", "bilinear", "area", "nearest"] | None = None
    quality: int | None = None
    exact_decode: bool = False
    restart_markers: Literal["auto", "row", "none"] | None = None
    pad_color: Color | None = None
    background: Color | None = None
    channels: Literal["rgb", "grey", "keep"] | None = None
    dtype: Literal["uint8", "uint16", "float16", "float32"] | None = None
    normalize: Literal["none", "unit", "symmetric", "imagenet", "dataset", "per-image"] | None = None
    dicom_window: str | tuple[float, float] | None = None
    max_pixels: int | None = None
    max_bytes: int | str | None = None
    max_work: int | None = None
    max_seconds: int | None = None

    stratify: bool = False
    group_by: str | None = None
    shards: int | None = None
    shard_records: int | None = None
    shard_bytes: int | str | None = None
    seed: int | None = None
    reject_crashers: bool = False
    reject_suspects: bool = False

    name: str | None = None
    licence: str | None = None
    source_url: str | None = None
    citation: str | None = None
    description: Place | None = None
    card: Place | None = None
    tfds_layout: bool = False
    dali_index: bool = False

    price: float | None = None
    log_json: Place | None = None

    beam: Mapping[str, Any] = field(default_factory=dict)

    def to_words(self) -> list[str]:
        """The words of the command line after `prepare`. Lists in `classes` and `exclude` are left out.

        Raises:
            UsageError: a value has a type that no option has.
        """
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in ("classes", "exclude"):
            if is_list(values[name]):
                del values[name]
        return words_of(values)


def is_list(value: Any) -> bool:
    """Whether a value is a list of names, instead of the file that has them."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def words_of(values: Mapping[str, Any]) -> list[str]:
    """The words of a command line for some values, by their names in `PrepareOptions`.

    Raises:
        UsageError: a value has a type that no option has.
    """
    places = [_place(values[name], name) for name in _PLACES if name in values]
    options = (word for name, value in values.items() if name not in _PLACES for word in _words(name, value))
    return [*places, *options]


def read_config(path: str) -> dict[str, Any]:
    """The values in a file of `--config`, by their names in `PrepareOptions`.

    Raises:
        UsageError: the file cannot be read, is no mapping in YAML, or has a name that is no option.
    """
    called = f"--config {path}"
    body = _read_yaml(path, called)
    if not isinstance(body, dict):
        raise UsageError(f"{called}: is no mapping of options to values, as `size: 256`")
    known, found = {one.name for one in fields(PrepareOptions)}, dict[str, Any]()
    for key, value in body.items():
        name = str(key).replace("-", "_")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else "; image-shards help prepare lists the options"
            raise UsageError(f"{called}: there is no option {excerpt(printable(str(key)), 60)}{hint}")
        if name in found:
            raise UsageError(f"{called}: {name} is there twice")
        if value is not None:
            found[name] = value
    return found


def _read_yaml(path: str, called: str) -> Any:
    if find_spec("yaml") is None:
        raise UsageError(f"{called}: needs pyyaml: pip install 'image-shards[beam]'")
    place, name = split_place(path)
    try:
        data = directory(place).read(name, 0, _MOST_BYTES + 1)
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"{called}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{called}: has more than {_MOST_BYTES:,} bytes; is it a file of options?")
    try:
        return load_yaml(data.decode("utf-8-sig"), called)
    except UnicodeDecodeError as error:
        raise UsageError(f"{called}: is not UTF-8 at byte {error.start}") from error


def _place(value: Any, name: str) -> str:
    text = _text(value, name)
    # A path that begins with a dash would be an option.
    return f"./{text}" if text.startswith("-") else text


def _words(name: str, value: Any) -> Iterator[str]:
    """The words of one option: none, a flag, `--name=value`, or several of these."""
    option = f"--{name.replace('_', '-')}"
    if value is None or value is False:
        return
    if value is True:
        yield option
    elif name == "beam":
        yield from _beam_words(value)
    elif name == "format" and not isinstance(value, str):
        yield from (f"{option}={_text(one, name)}" for one in _items(value, name))
    else:
        yield f"{option}={_value(value, name)}"


def _beam_words(options: Any) -> Iterator[str]:
    if not isinstance(options, Mapping):
        raise UsageError(f"beam: expected a mapping of Apache Beam's options to values, got {options!r:.80}")
    for name, value in options.items():
        several = value if isinstance(value, list | tuple) else [value]
        if isinstance(value, bool) or value is None:
            yield from [f"--{name}"] if value else []
        else:
            yield from (f"--{name}={one}" for one in several)


def _value(value: Any, name: str) -> str:
    if name == "source" and isinstance(value, type):
        return _source(value)
    if name == "size" and not isinstance(value, str | int):
        return "x".join(_text(side, name) for side in _items(value, name))
    if isinstance(value, Mapping):
        if name != "split":
            raise UsageError(f"{name}: expected no mapping, got {value!r:.80}")
        return ",".join(f"{split}={_text(fraction, name)}" for split, fraction in value.items())
    if isinstance(value, _PLAIN):
        return _text(value, name)
    return ",".join(_item(one, name) for one in _items(value, name))


def _source(source: type) -> str:
    if source.__module__ == "__main__" or "<" in source.__qualname__ or "." in source.__qualname__:
        raise UsageError(
            f"source={source.__qualname__}: worker processes cannot import it from here; move the class to the top of a"
            " module"
        )
    return f"{source.__module__}:{source.__qualname__}"


def _items(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, Sequence):
        raise UsageError(f"{name}: expected a text, a number or a list, got {value!r:.80}")
    return value


def _item(value: Any, name: str) -> str:
    """One of several values, between which there are commas."""
    text = _text(value, name)
    if "," in text:
        raise UsageError(f"{name}: {text!r} has a comma, which separates names; rename it")
    return text


def _text(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, _PLAIN):
        raise UsageError(f"{name}: expected a text or a number, got {value!r:.80}")
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    # Decimals: no option takes the form 1e-05.
    return f"{value:.12f}".rstrip("0") if isinstance(value, float) and 0 < abs(value) < 1e-4 else str(value)
