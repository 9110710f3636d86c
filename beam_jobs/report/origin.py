"""The origin of a dataset: the command that made it, without any place of the machine, and its source."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from shard_reader.arguments import parse_bytes
from shard_reader.format.image_codecs.table import codec_for
from shard_reader.format.manifest import FORMATS, Manifest

__all__ = ["prepare_command", "recognised", "without_places"]

# Options about the run, and those that this module writes in its own way.
_LEFT_OUT: Final = frozenset(
    {"command", "formats", "image", "input", "kind", "max_rejects", "output", "runner", "seed", "shard_counts"}
    | {"shards", "source", "workers", "why", "layout"}
)
_FILES: Final = frozenset({"classes", "exclude", "card", "description"})  # read from files whose names are not kept
_PLACES: Final = frozenset({"root", "below"})
_WHOLE_PATH: Final = re.compile(r"(?<![\w/.])(?:[A-Za-z][A-Za-z0-9+.-]*:/)?/(?:[^/\s'\"]+/)+([^/\s'\"]*)")
_MOST_BYTES = 300  # of a value


def prepare_command(manifest: Manifest, without: Iterable[str] = ()) -> str:
    """The command that makes the dataset again; "" if `prepare` did not make it.

    Args:
        manifest: the manifest of the dataset.
        without: options that are left out, with or without their values.
    """
    options = manifest.options
    if not isinstance(options.get("image"), Mapping) or options.get("command") == "join":
        return ""
    words = ["image-shards prepare INPUT OUTPUT", *_image_words(options["image"])]
    if list(manifest.formats) != [next(iter(FORMATS))]:
        words += [f"--format {name}" for name in manifest.formats]
    words += _words(options["source"]) if isinstance(options.get("source"), Mapping) else ()
    words += _words({name: value for name, value in options.items() if name not in _LEFT_OUT})
    words += _shard_words(options.get("shards"))
    words += [f"--seed {manifest.seed}"] if manifest.seed else []
    left_out = {word.split(" ")[0] for word in without}
    return " ".join(word for word in words if word.split(" ")[0] not in left_out)


def recognised(manifest: Manifest) -> str:
    """The kind of source, and the reason for it, if it is known."""
    kind, why = (manifest.options.get(name) for name in ("kind", "why"))
    return ", ".join(str(part) for part in (kind, why) if part)


def without_places(manifest: Manifest, text: str) -> str:
    """A text with INPUT for its path, and of other whole paths the last name: a report says nothing of a machine."""
    place = manifest.options.get("input")
    if isinstance(place, str) and place.strip("/."):
        text = re.sub(rf"(INPUT )?{re.escape(place.rstrip('/'))}(?=[/:;,\s'\"]|$)", "INPUT", text)
    return _WHOLE_PATH.sub(r"\1", text)


def _image_words(image: Mapping[str, Any]) -> Iterator[str]:
    width, height, fit = image.get("width"), image.get("height"), image.get("fit")
    is_square = fit == "cover" and width == height
    if fit != "none":
        yield f"--size {width}" if is_square else f"--size {width}x{height}"
    if not is_square and fit != "crop":  # the defaults of N and of WxH
        yield f"--fit {fit}"
    normalize = image.get("normalize", "none")
    usual = {"filter": "lanczos", "normalize": "none", "dtype": "uint8" if normalize == "none" else "float32"}
    usual["encoding"] = _encoding_for(image.get("dtype"))
    others = {name: value for name, value in image.items() if name not in ("width", "height", "fit")}
    yield from _words({name: value for name, value in others.items() if value != usual.get(name)})


def _encoding_for(dtype: object) -> str:
    try:
        return codec_for(str(dtype)).name
    except StopIteration:  # a manifest may say anything
        return ""


def _words(options: Mapping[str, Any]) -> Iterator[str]:
    """Options as words of a command line. Values that are no words are left out."""
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if name in _FILES and value:
            yield f"{option} FILE"
        elif name in _PLACES and value:
            yield f"{option} DIR"
        elif value is True:
            yield option
        elif isinstance(value, list) and value and all(isinstance(part, str | int) for part in value):
            yield f"{option} {_quoted(','.join(map(str, value)))}"
        elif isinstance(value, str | int | float) and value is not False and value != "":
            yield f"{option} {_quoted(str(value))}"


def _quoted(text: str) -> str:
    return shlex.quote(text if len(text) <= _MOST_BYTES else f"{text[:_MOST_BYTES]}...")


def _shard_words(rule: object) -> Iterator[str]:
    if not isinstance(rule, Mapping):
        return
    by, value = rule.get("by"), rule.get("value")
    if by == "shards":
        yield f"--shards {value}"
    elif by in ("records", "bytes") and (by, value) != ("bytes", parse_bytes("128MB")):
        yield f"--shard-{by} {value}"
