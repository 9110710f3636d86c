"""Entries and references as JSON, as fast as Python makes it: there is one of each for every input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from beam_jobs.sources.files.interface import Entry, Reference
from shard_reader.storage.open import is_url
from shard_reader.storage.secrets import unsigned

__all__ = ["entry_json", "reference_json", "unsigned_json"]

_FEW = 8  # values of an object: of more, `json.dumps` is the faster one


# The text of `json.dumps`, which makes an encoder for each call: that takes five times as long as the text itself.
_text_json = json.JSONEncoder().encode


def entry_json(entry: Entry) -> str:
    """An entry as a list of JSON."""
    id, size, place, label, split, fields, frame, problem, payloads = entry
    more = f", {json.dumps(payloads)}" if payloads else ""
    return (
        f"[{_text_json(id)}, {_json(size)}, {_json(place)}, {_json(label)}, {_json(split)}, {_object_json(fields)},"
        f" {_json(frame)}, {_json(problem)}{more}]"
    )


def unsigned_json(entry: Entry) -> str:
    """An entry whose places are URLs, as JSON, without their signatures."""
    payloads = {n: unsigned(p) if isinstance(p, str) and is_url(p) else p for n, p in entry.payloads.items()}
    values = entry._replace(place=unsigned(entry.place), payloads=payloads)
    return json.dumps(values if payloads else values[:-1])


def reference_json(reference: Reference) -> str:
    """A reference as a list of JSON."""
    id, size, place, values, frame, payloads = reference
    more = f", {json.dumps(payloads)}" if payloads else ""
    return f"[{_text_json(id)}, {_json(size)}, {_json(place)}, {_object_json(values)}, {_json(frame)}{more}]"


def _object_json(values: Mapping[str, Any]) -> str:
    if not values or len(values) > _FEW or type(values) is not dict:
        return "{}" if values == {} else json.dumps(values)
    return f"{{{', '.join([f'{_text_json(name)}: {_json(value)}' for name, value in values.items()])}}}"


def _json(value: Any) -> str:
    if value is None:
        return "null"
    kind = type(value)
    return str(value) if kind is int else _text_json(value) if kind is str else json.dumps(value)
