"""`croissant.json`: the description of a dataset in Croissant 1.1, JSON-LD.

Source: the specification of MLCommons, http://mlcommons.org/croissant/1.1, and of its RAI vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from beam_jobs.metadata.card import Card
from beam_jobs.metadata.facts import defects, field_words, processing
from beam_jobs.metadata.parquet import added_columns
from beam_jobs.metadata.tfds import VERSION
from shard_reader.format.fields import IMAGE, Field
from shard_reader.format.manifest import FORMATS, MANIFEST_NAME, PARQUET_NAME, Manifest, ShardFile

__all__ = ["croissant"]

_LISTED_SHARDS: Final = 1000  # files; of more, the manifest has the checksums
_RAI: Final = "http://mlcommons.org/croissant/RAI/1.0"
_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_TYPES: Final = {"int64": "cr:Int64", "float32": "cr:Float32", "string": "sc:Text"}
_MEDIA_TYPES: Final = {"json": "application/json", "jsonl": "application/jsonlines", "parquet": "application/x-parquet"}
_TABLES: Final = "tables"  # the identifier of the set of them
_FORMAT_TYPES: Final = {".tfrecord": "application/x-tfrecord", ".h5": "application/x-hdf5"}


def croissant(manifest: Manifest, card: Card, name: str, sha256: str, size: int) -> dict[str, Any]:
    """The description, as JSON.

    Args:
        manifest: the manifest of the dataset.
        card: the facts that its author gives.
        name: the name of the dataset where the card has none.
        sha256: the SHA-256 of the manifest's file.
        size: its bytes.
    """
    facts = {
        "name": card.name or name,
        "description": card.description,
        "license": card.licence,
        "url": card.url,
        "creator": [{"@type": "sc:Organization", "name": one} for one in card.creators],
        "datePublished": card.date_published,
        "citeAs": card.citation,
    }
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        **{key: value for key, value in facts.items() if value},
        "version": VERSION,
        "conformsTo": ["http://mlcommons.org/croissant/1.1", _RAI],
        **({"prov:wasDerivedFrom": {"@id": card.source_url}} if card.source_url else {}),
        "rai:dataPreprocessingProtocol": processing(manifest),
        **_rai(manifest, card),
        "distribution": [
            _file(MANIFEST_NAME, "application/json", size, sha256),
            *(_file(key, _media_type(key), None, value) for key, value in manifest.files.items()),
            *_tables(manifest),
            *_shards(manifest),
        ],
        "recordSet": _record_sets(manifest) if manifest.lists(PARQUET_NAME) else [],
    }


def _rai(manifest: Manifest, card: Card) -> dict[str, Any]:
    """The fields of RAI that are known: the author's, and the defects that were counted."""
    found = {key: list(value) if isinstance(value, tuple) else value for key, value in card.rai.items()}
    known = defects(manifest.counts)
    if known:
        given = found.get("dataLimitations", [])
        found["dataLimitations"] = [*(given if isinstance(given, list) else [given]), *known]
    return {f"rai:{key}": value for key, value in found.items()}


def _file(name: str, media_type: str, size: int | None, sha256: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        **({} if size is None else {"contentSize": f"{size} B"}),
        "encodingFormat": media_type,
        "sha256": sha256,
    }


def _media_type(name: str) -> str:
    return _MEDIA_TYPES.get(name.rpartition(".")[2], "image/jpeg" if name.endswith(".jpg") else "text/plain")


def _shards(manifest: Manifest) -> list[dict[str, Any]]:
    """The shards: each file with its checksum or, of very many, a set of files for each format."""
    files = [(format, file) for shard in manifest.shards() for format, file in shard.files.items()]
    if len(files) <= _LISTED_SHARDS:
        return [_shard(format, file) for format, file in files]
    return [
        {
            "@type": "cr:FileSet",
            "@id": f"shards-{format}",
            "name": f"shards-{format}",
            "description": f"{MANIFEST_NAME} has the size and the SHA-256 of each file.",
            "encodingFormat": _FORMAT_TYPES[FORMATS[format]],
            "includes": f"*{FORMATS[format]}",
        }
        for format in manifest.formats
    ]


def _tables(manifest: Manifest) -> list[dict[str, Any]]:
    """The tables of the generations as one set, where there are several."""
    names = manifest.lists(PARQUET_NAME)
    if len(names) < 2:
        return []
    kind = _MEDIA_TYPES["parquet"]
    return [{"@type": "cr:FileSet", "@id": _TABLES, "name": _TABLES, "encodingFormat": kind, "includes": list(names)}]


def _shard(format: str, file: ShardFile) -> dict[str, Any]:
    return _file(file.path, _FORMAT_TYPES[FORMATS[format]], file.bytes, file.sha256)


def _record_sets(manifest: Manifest) -> list[dict[str, Any]]:
    fields = {name: field for name, field in manifest.fields.items() if not field.is_payload}
    added = added_columns(fields, manifest.class_names is not None)
    split = added.pop("split")
    tables = manifest.lists(PARQUET_NAME)
    source = _id("fileObject", tables[0]) if len(tables) == 1 else _id("fileSet", _TABLES)
    columns = [
        _field(split, Field(dtype="string"), "the split of the record", source)
        | {"references": _id("field", "splits/name")},
        *(_field(name, field, field_words(name, field)[1], source) for name, field in fields.items()),
        *(_field(name, _named(fields[key]), f"the class of {key}", source) for key, name in added.items()),
    ]
    records = {
        "@type": "cr:RecordSet",
        "@id": "records",
        "name": "records",
        "description": f"All fields of the records but {_left_out(manifest.fields)} in the shards.",
        **({"key": _id_of("id")} if "id" in fields else {}),
        "field": columns,
    }
    return [_splits(manifest), *_classes(manifest), records]


def _left_out(fields: Mapping[str, Field]) -> str:
    """The fields that are no columns, in words."""
    payloads = [name for name, field in fields.items() if field.is_payload]
    return f"{', '.join(payloads)}, which are" if payloads != [IMAGE] else "the image, which is"


def _splits(manifest: Manifest) -> dict[str, Any]:
    rows = [{"splits/name": name, "splits/records": split.records} for name, split in manifest.splits.items()]
    return _table("splits", "cr:Split", {"name": "sc:Text", "records": "cr:Int64"}, rows)


def _classes(manifest: Manifest) -> list[dict[str, Any]]:
    rows = [{"classes/number": n, "classes/name": name} for n, name in enumerate(manifest.class_names or ())]
    return [_table("classes", "sc:Enumeration", {"number": "cr:Int64", "name": "sc:Text"}, rows)] if rows else []


def _table(name: str, kind: str, types: Mapping[str, str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A set of records whose rows are in the description itself."""
    fields = [
        {"@type": "cr:Field", "@id": f"{name}/{key}", "name": key, "dataType": value} for key, value in types.items()
    ]
    key = {"key": {"@id": fields[0]["@id"]}}
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "dataType": kind, **key, "field": fields, "data": rows}


def _named(field: Field) -> Field:
    return Field(dtype="string", shape=field.shape)


def _field(name: str, field: Field, description: str, source: Mapping[str, Any]) -> dict[str, Any]:
    shape = ",".join("-1" if size is None else str(size) for size in field.shape)
    return {
        "@type": "cr:Field",
        **_id_of(name),
        "name": name,
        **({"description": description} if description else {}),
        "dataType": _TYPES[field.dtype],
        **({"isArray": True, "arrayShape": shape} if shape else {}),
        "source": {**source, "extract": {"column": name}},
    }


def _id_of(column: str) -> dict[str, str]:
    """The identifier of a column's field, a part of an IRI whatever is in the name."""
    return {"@id": f"records/{quote(column, safe='/')}"}


def _id(kind: str, name: str) -> dict[str, dict[str, str]]:
    return {kind: {"@id": name}}
