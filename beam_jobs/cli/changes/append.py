"""The options of `--append`: those of the dataset that is added to, unless they are given again, the same."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.options import ImageOptions, JobOptions, ShardRule
from beam_jobs.tools.dataset_files import manifest_at
from shard_reader.format.manifest import Manifest
from shard_reader.printable import printable

__all__ = ["add_append", "base_of", "check_same_options", "shard_rule_of", "words_of_base"]

_SAME = (
    "image",
    "formats",
    "split",
    "stratify",
    "group_by",
    "seed",
    "drop_duplicates",
    "duplicate_labels",
    "near_duplicates",
    "near_distance",
    "dali_index",
)
"""The options that all generations have in common, by their names in the manifest."""
_PLAIN = _SAME[2:]  # which the parser has under the same names
_IMAGE = tuple(one.name for one in fields(ImageOptions) if one.name not in ("width", "height"))


def add_append(parser: argparse._ArgumentGroup) -> None:
    """Add the options to a group."""
    add = parser.add_argument
    add("--append", action="store_true", help="add new inputs to the dataset in OUTPUT")
    add("--replace", action="store_true", help="with --append: replace records of the same ids")


def base_of(found: argparse.Namespace, output: str) -> Manifest | None:
    """The manifest of the dataset that is added to; None without `--append`.

    Raises:
        UsageError: there is no such dataset, or `--replace` is given without `--append`.
    """
    if not found.append:
        if found.replace:
            raise UsageError("--replace: is for --append; give that, too, or --overwrite to make the dataset again")
        return None
    manifest = manifest_at(output)[1]
    if not isinstance(manifest.options.get("image"), dict):
        raise UsageError(f"--append: {output}: its manifest has no options of prepare; prepare it first")
    return manifest


def words_of_base(manifest: Manifest) -> list[str]:
    """The options of a dataset, as words of a command line, which the parser checks: a manifest is data."""
    stored, image = manifest.options, dict(manifest.options["image"])
    values = {name: stored.get(name) for name in _PLAIN} | {name: image.get(name) for name in _IMAGE}
    words = [f"--format={name}" for name in manifest.formats]
    if image.get("fit") != "none":
        words.append(f"--size={image.get('width')}x{image.get('height')}")
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            words.append(f"{option}={','.join(map(str, value))}")
        elif value is True:
            words.append(option)
        elif value is not None and value is not False:
            words.append(f"{option}={value}")
    return words


def shard_rule_of(manifest: Manifest) -> ShardRule:
    """The rule for the shards that are added: as many records in each as in the largest one of the dataset."""
    stored = manifest.options.get("shards")
    if isinstance(stored, dict) and stored.get("by") in ("records", "bytes"):
        value = stored.get("value")
        if isinstance(value, int) and value > 0:
            return ShardRule(by=stored["by"], value=value)
    tables = [split.shards.records for split in manifest.splits.values() if len(split.shards)]
    return ShardRule(by="records", value=max(1, *(int(records.max()) for records in tables)))


def check_same_options(options: JobOptions, manifest: Manifest) -> None:
    """Check that options which decide the result are those of the dataset.

    Raises:
        UsageError: some are others; the message shows them.
    """
    found = list(_differences({name: options.deciding().get(name) for name in _SAME}, manifest.options))
    if found:
        raise UsageError(
            f"--append: the options of {options.output} count for all generations: {printable('; '.join(found))}."
            " Leave them out, or prepare a dataset of its own"
        )


def _differences(here: Mapping[str, Any], there: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in here.items():
        known = there.get(name)
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            every = {**dict.fromkeys(known), **value}
            yield from _differences(every, known, f"{prefix}{name}.")
        elif (value or None) != (known or None):
            yield f"{prefix}{name} is {known!r} there, {value!r} here"
