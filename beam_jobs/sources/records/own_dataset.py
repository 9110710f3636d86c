"""The fields of a dataset by image-shards beside its shards: what bytes alone do not tell, such as their role."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from beam_jobs.sources.files.tf_examples import BOXES
from shard_reader.format.fields import FORMAT_NAME, IMAGE, IMAGE_ROLES, POINT_ROLES, Field
from shard_reader.format.manifest import MANIFEST_NAME
from shard_reader.storage.directory import Directory

__all__ = ["own_fields", "own_payloads", "own_points"]


def own_fields(folder: Directory) -> dict[str, Field]:
    """The fields of the manifest in a folder; empty without one that can be read."""
    try:
        found = json.loads(folder.read(MANIFEST_NAME, most=1 << 26))
        return (
            {name: _field(value) for name, value in found["fields"].items()}
            if found.get("format") == FORMAT_NAME
            else {}
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}  # not a dataset of image-shards


def own_payloads(fields: Mapping[str, Field]) -> dict[str, str]:
    """The roles of further images and of bytes."""
    roles = {name: "bytes" for name, field in fields.items() if field.dtype == "bytes"}
    images = {name: field for name, field in fields.items() if field.is_image and name != IMAGE}
    return roles | {name: field.role or "photo" for name, field in images.items()}


def own_points(fields: Mapping[str, Field], types: Mapping[str, Field]) -> dict[str, Field]:
    """The types of boxes, points and keypoints among `types`. They are parts of the stored image: y before x.

    HDF5 has the numbers of all of an image in a row.
    """
    found = {name: field for name, field in fields.items() if field.role in POINT_ROLES and name in types}
    if BOXES in types and not types[BOXES].is_fixed:
        found[BOXES] = Field(dtype="float32", shape=(None, 4))
    return found


def _field(value: Mapping[str, Any]) -> Field:
    shape = tuple(None if size is None else int(size) for size in value.get("shape", ()))
    role, encoding = value.get("role"), value.get("encoding")
    if role not in (None, *IMAGE_ROLES, *POINT_ROLES) or not isinstance(encoding, (str, type(None))):
        raise ValueError(f"no role: {role!r}")
    pairs = tuple((int(left), int(right)) for left, right in value.get("flip_pairs", ()))
    names = tuple(map(str, value.get("names", ())))
    return Field(dtype=str(value["dtype"]), shape=shape, encoding=encoding, role=role, names=names, flip_pairs=pairs)
