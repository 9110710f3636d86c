"""Writing the card and Croissant's description, which can be written again beside a manifest at any time.

Each carries the checksum of its own text, so that an edited file, or another one of that name, is recognised.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from beam_jobs.metadata.card import Card
from beam_jobs.metadata.croissant import croissant
from beam_jobs.metadata.facts import defects
from beam_jobs.metadata.page import page
from shard_reader.format.manifest import PAPER_NAMES, Manifest
from shard_reader.storage.directory import Directory

__all__ = ["card_of", "foreign_papers", "name_of", "write_papers"]

_BLANK: Final = "0" * 64  # the place of the checksum in a text that is not sealed yet: the last such run of zeros
_CHECKSUM: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_MOST_BYTES: Final = 1 << 27
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+")


def write_papers(files: Directory, manifest: Manifest, text: bytes, card: Card) -> None:
    """Write the card and Croissant's description. A file that its user wrote or edited stays as it is.

    Args:
        files: the directory of the dataset.
        manifest: its manifest.
        text: the bytes of the manifest's file.
        card: the facts that its author gives.
    """
    name = name_of(files.uri(""))
    description = croissant(manifest, card, name, hashlib.sha256(text).hexdigest(), len(text))
    papers = (_sealed_page(page(manifest, card, name)), _sealed_json(description))
    for path, data in zip(PAPER_NAMES, papers, strict=True):
        if not _is_foreign(files, path):
            files.write(path, [data])


def card_of(files: Directory, manifest: Manifest) -> Card:
    """The facts that an author gave, from the description beside a manifest; without one, no facts."""
    _, name = PAPER_NAMES
    try:
        data = files.read(name, most=_MOST_BYTES)
        if not _is_sealed(data):
            return Card()
        found = json.loads(data)
        known, own = set(defects(manifest.counts)), name_of(files.uri(""))
        rai = {key.removeprefix("rai:"): value for key, value in found.items() if key in _given_rai(found)}
        if limits := rai.get("dataLimitations"):
            rai["dataLimitations"] = [one for one in limits if one not in known]
        return Card(
            name=None if found["name"] == own else found["name"],
            licence=found.get("license"),
            source_url=found.get("prov:wasDerivedFrom", {}).get("@id"),
            citation=found.get("citeAs"),
            description=found.get("description"),
            url=found.get("url"),
            date_published=found.get("datePublished"),
            creators=tuple(one["name"] for one in found.get("creator", ())),
            rai={key: tuple(value) if isinstance(value, list) else value for key, value in rai.items() if value},
        )
    except FileNotFoundError:
        return Card()


def _given_rai(found: Mapping[str, Any]) -> set[str]:
    """The keys of Croissant RAI that an author may have given."""
    return {key for key in found if key.startswith("rai:")} - {"rai:dataPreprocessingProtocol"}


def foreign_papers(files: Directory) -> list[str]:
    """The names of papers in a directory that its user wrote or edited."""
    return [name for name in PAPER_NAMES if _is_foreign(files, name)]


def name_of(place: str) -> str:
    """The name of a dataset by its place: that of its folder; of one that is named by a version, the folder above."""
    *above, last = place.rstrip("/").split("/")
    return above[-1] if above and _VERSION.fullmatch(last) else last


def _sealed_page(text: str) -> bytes:
    return _sealed(f"{text}\n<!-- written by image-shards, checksum {_BLANK} -->\n")


def _sealed_json(body: dict[str, Any]) -> bytes:
    return _sealed(json.dumps({**body, "checksum": _BLANK}, indent=1) + "\n")


def _sealed(text: str) -> bytes:
    """A text in UTF-8 with its SHA-256, that of the text as it is, in place of the last `_BLANK`."""
    data = text.encode()
    before, _, after = data.rpartition(_BLANK.encode())
    return before + hashlib.sha256(data).hexdigest().encode() + after


def _is_sealed(data: bytes) -> bool:
    """Whether a file is as `_sealed` made it."""
    text = data.decode("utf-8", "replace")
    found = [*_CHECKSUM.finditer(text)][-1:]
    return any(_sealed(text[: one.start()] + _BLANK + text[one.end() :]) == data for one in found)


def _is_foreign(files: Directory, name: str) -> bool:
    """Whether there is a file that its user wrote or edited."""
    try:
        return not _is_sealed(files.read(name, most=_MOST_BYTES))
    except FileNotFoundError:
        return False
    except OSError as error:
        # A folder, a FIFO, or a file too large for a page.
        if error.errno in (errno.EFBIG, errno.EISDIR, errno.EINVAL):
            return True
        raise
