"""The facts about a dataset that its author knows: options of the command, or a `card.yaml` with the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from typing import Any, Final

from beam_jobs.errors import UsageError
from beam_jobs.safe_yaml import load_yaml
from beam_jobs.sources.files.file_names import split_place
from shard_reader.printable import excerpt
from shard_reader.storage.open import directory
from shard_reader.storage.secrets import without_secrets

__all__ = ["Card", "read_card", "read_text"]

_MOST_BYTES: Final = 1 << 20  # of card.yaml, and of a description
_NAMES: Final = {"license": "licence"}  # other spellings of keys
_PREFIX: Final = "rai:"

RaiValue = str | bool | tuple[str, ...]
"""The value of a field of Croissant RAI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The facts that no image tells. Those that are not given are in no file.

    Attributes:
        name: the name of the dataset, for people.
        licence: an SPDX identifier, a URL, or a text.
        source_url: where the images come from.
        citation: how to cite the dataset, best in BibTeX.
        description: a text about the dataset, in Markdown.
        url: the page on which the dataset is published.
        date_published: a date as 2026-05-31.
        creators: names of people or organisations.
        rai: fields of Croissant RAI, by their names without `rai:`.
    """

    name: str | None = None
    licence: str | None = None
    source_url: str | None = None
    citation: str | None = None
    description: str | None = None
    url: str | None = None
    date_published: str | None = None
    creators: tuple[str, ...] = ()
    rai: Mapping[str, RaiValue] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether any fact is given."""
        return any(getattr(self, one.name) for one in fields(self))


def read_text(path: str, option: str) -> str:
    """A text file of at most a megabyte.

    Raises:
        UsageError: it cannot be read, is too large, or is not UTF-8.
    """
    place, name = split_place(path)
    try:
        return directory(place).read(name, most=_MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{option} {path}: is not UTF-8 at byte {error.start}") from error
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"{option} {path}: {getattr(error, 'strerror', None) or error}") from error


def read_card(path: str) -> Card:
    """The card in a YAML file.

    Raises:
        UsageError: it is not such a file, or has an unknown key or a value of another type; the message names it.
    """
    found = {_NAMES.get(key, key): value for key, value in _mapping(path).items()}
    known = [one.name for one in fields(Card)]
    wrong = [key for key in found if key not in known]
    if wrong:
        raise UsageError(f"--card {path}: unknown key {excerpt(wrong[0])}; the keys are {', '.join(known)}")
    return Card(**{key: _value(path, key, value) for key, value in found.items() if value is not None})


def _mapping(path: str) -> dict[Any, Any]:
    found = load_yaml(read_text(path, "--card"), f"--card {path}")
    if not isinstance(found, dict):
        raise UsageError(f"--card {path}: must be keys and values, as `name: Photos of pets`")
    return found


def _value(path: str, key: str, value: Any) -> Any:
    if key == "rai":
        return _rai(path, value)
    if key == "creators":
        return _texts(path, key, value)
    if key == "date_published" and isinstance(value, date):
        return value.isoformat()
    text = _text(path, key, value)
    return without_secrets(text) if key in ("url", "source_url") else text


def _rai(path: str, value: Any) -> dict[str, RaiValue]:
    if not isinstance(value, dict):
        raise UsageError(f"--card {path}: rai must be keys and values, as `dataBiases: none known`")
    found = dict[str, RaiValue]()
    for key, one in value.items():
        name = str(key).removeprefix(_PREFIX)
        if not (name.isascii() and name.isalpha()):
            raise UsageError(f"--card {path}: rai: {excerpt(key)} is not the name of a field, as dataBiases")
        # Strings, lists of them and booleans are all that the vocabulary has.
        found[name] = one if isinstance(one, bool) else _one_or_more(path, f"rai: {name}", one)
    return found


def _one_or_more(path: str, key: str, value: Any) -> str | tuple[str, ...]:
    return _texts(path, key, value) if isinstance(value, list) else _text(path, key, value)


def _texts(path: str, key: str, value: Any) -> tuple[str, ...]:
    return tuple(_text(path, key, one) for one in (value if isinstance(value, list) else [value]))


def _text(path: str, key: str, value: Any) -> str:
    if isinstance(value, date):
        return value.isoformat()
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"--card {path}: {key} must be a text, got {excerpt(value)}; put it in quotes")
    return value.strip()
