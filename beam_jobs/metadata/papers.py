"""Writing the card and Croissant's description, which go beside a manifest and can be written again at any time."""

from __future__ import annotations

import hashlib
import re

from beam_jobs.metadata.card import Card
from beam_jobs.metadata.croissant import croissant
from beam_jobs.metadata.page import page
from beam_jobs.metadata.seal import is_foreign
from shard_reader.format.manifest import PAPER_NAMES, Manifest
from shard_reader.storage.directory import Directory

__all__ = ["foreign_papers", "name_of", "write_papers"]

_VERSION = re.compile(r"\d+\.\d+\.\d+")


def write_papers(files: Directory, manifest: Manifest, text: bytes, card: Card) -> None:
    """Write the card and Croissant's description. A file that its user wrote or edited stays as it is.

    Args:
        files: the directory of the dataset.
        manifest: its manifest.
        text: the bytes of the manifest's file.
        card: the facts that its author gives.
    """
    name = name_of(files.uri(""))
    readme, description = PAPER_NAMES
    papers = {
        readme: page(manifest, card, name),
        description: croissant(manifest, card, name, hashlib.sha256(text).hexdigest(), len(text)),
    }
    for path, data in papers.items():
        if not is_foreign(files, path):
            files.write(path, [data])


def foreign_papers(files: Directory) -> list[str]:
    """The names of papers in a directory that its user wrote or edited."""
    return [name for name in PAPER_NAMES if is_foreign(files, name)]


def name_of(place: str) -> str:
    """The name of a dataset by its place: that of its folder; of one that is named by a version, the folder above."""
    *above, last = place.rstrip("/").split("/")
    return above[-1] if above and _VERSION.fullmatch(last) else last
