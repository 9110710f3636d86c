"""The options about the papers of a dataset: its card, and files for the readers of other programs."""

from __future__ import annotations

import argparse
from dataclasses import replace

from beam_jobs.errors import UsageError
from beam_jobs.metadata.card import Card, read_card, read_text
from beam_jobs.metadata.papers import name_of
from beam_jobs.metadata.tfds import VERSION, builder_name
from shard_reader.format.manifest import FORMATS
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.storage.secrets import without_secrets

__all__ = ["add_papers", "place_and_card"]


def add_papers(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    add = parser.add_argument_group("card and other programs").add_argument
    add("--name", type=_text, metavar="T", help="the name of the dataset, in its card and croissant.json")
    add("--licence", type=_text, metavar="L", help="its licence: an SPDX identifier or a URL")
    add("--license", type=_text, dest="licence", help=argparse.SUPPRESS)
    add("--source-url", type=_text, metavar="URL", help="where the images come from")
    add("--citation", type=_text, metavar="T", help="how to cite it, best in BibTeX")
    add("--description", metavar="FILE", help="a file with a text about it, in Markdown")
    add("--card", metavar="FILE", help="a YAML file with these facts, and with others")
    add("--tfds-layout", action="store_true", help="write to OUTPUT/NAME/1.0.0, as tfds.load finds it")
    add("--dali-index", action="store_true", help="write an index for NVIDIA DALI beside each TFRecord file")


def _card(found: argparse.Namespace) -> Card:
    """The facts in the options, and in the file of `--card`.

    Raises:
        UsageError: a file cannot be read, or is no card.
    """
    card = Card() if found.card is None else read_card(found.card)
    given = {name: getattr(found, name) for name in ("name", "licence", "citation")}
    given["source_url"] = None if found.source_url is None else without_secrets(found.source_url)
    given["description"] = None if found.description is None else read_text(found.description, "--description").strip()
    return replace(card, **{name: value for name, value in given.items() if value is not None})


def place_and_card(found: argparse.Namespace, output: str, formats: tuple[str, ...]) -> tuple[str, Card]:
    """The place of the dataset, which `--tfds-layout` puts below OUTPUT, and its card.

    Raises:
        UsageError: a file cannot be read or is no card, or an option does not fit the formats.
    """
    _check_formats(found, formats)
    card = _card(found)
    return (_tfds_place(output, card) if found.tfds_layout else output), card


def _check_formats(found: argparse.Namespace, formats: tuple[str, ...]) -> None:
    """Check that there are shards for the programs that the options name.

    Raises:
        UsageError: these read no such format.
    """
    for option, given in (("--tfds-layout", found.tfds_layout), ("--dali-index", found.dali_index)):
        if given and not any(SHARD_FORMATS[name].in_tfds for name in formats):
            named = " or ".join(name for name in FORMATS if SHARD_FORMATS[name].in_tfds)
            raise UsageError(f"{option}: is for TFRecords; give --format {named}, too")


def _tfds_place(output: str, card: Card) -> str:
    """The place of the dataset below the `data_dir` of TensorFlow Datasets: OUTPUT/NAME/1.0.0.

    Raises:
        UsageError: the name has no letter.
    """
    name = builder_name(card.name or name_of(output))
    if not name or not name[0].isalpha():
        raise UsageError(f"--tfds-layout: {card.name or output!r} gives no name of letters; give --name, as photos")
    return f"{output}/{name}/{VERSION}"


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    return text.strip()
