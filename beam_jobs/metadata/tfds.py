"""The files that let `tfds.builder_from_directory(OUT)` open a dataset's TFRecords as they are.

Sources: tensorflow_datasets/core/proto/dataset_info.proto and feature.proto, in JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from shard_reader.format.fields import IMAGE, Field, point_role
from shard_reader.format.image_codecs.table import codec_of, is_pixel_array
from shard_reader.format.manifest import TFDS_NAMES, Manifest, Split
from shard_reader.format.shard_formats.table import SHARD_FORMATS

__all__ = ["VERSION", "builder_name", "metadata_files"]

VERSION: Final = "1.0.0"
"""The version of each dataset, for programs that ask for one."""

_FEATURES = "tensorflow_datasets.core.features"
_OBJECTS = "objects/"
_BOX = {"shape": {"dimensions": ["4"]}, "dtype": "float32", "bboxFormat": "REL_YXYX"}


def builder_name(text: str) -> str:
    """A name in small letters, digits and underscores. It may be empty, or begin with a digit."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def metadata_files(manifest: Manifest, name: str) -> dict[str, bytes]:
    """Name and content of each file; empty if the dataset has no format that TensorFlow Datasets reads.

    Args:
        manifest: the manifest of the dataset.
        name: the name of the dataset, of any characters.
    """
    format = next((name for name in manifest.formats if SHARD_FORMATS[name].in_tfds), None)
    if format is None:
        return {}
    info, features, labels, object_labels = TFDS_NAMES
    short = builder_name(name)
    if not short[:1].isalpha():
        short = f"dataset_{short}".rstrip("_")
    files = {info: _dataset_info(manifest, short, format), features: _group(manifest.fields, "", manifest)}
    encoded = {path: (json.dumps(body, indent=1) + "\n").encode() for path, body in files.items()}
    if manifest.class_names:
        path = labels if "label" in manifest.fields else object_labels
        encoded[path] = "".join(f"{n}\n" for n in manifest.class_names).encode()
    return encoded


def _dataset_info(manifest: Manifest, name: str, format: str) -> dict[str, Any]:
    # For `as_supervised=True`: an image and its label or, without labels, an image and its mask.
    outputs = ["label", *(name for name, field in manifest.fields.items() if field.role == "mask")]
    output = next((name for name in outputs if name in manifest.fields and "/" not in name), None)
    pair = {"supervisedKeys": {"input": IMAGE, "output": output}} if output else {}
    return {
        "name": name,
        "version": VERSION,
        "fileFormat": format,
        "moduleName": "image_shards",
        **pair,
        "splits": [_split(key, split, format) for key, split in manifest.splits.items()],
    }


def _split(name: str, split: Split, format: str) -> dict[str, Any]:
    return {
        "name": name,
        "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
        "numBytes": str(split.shards.bytes(format)),
        "shardLengths": list(map(str, split.shards.records.tolist())),
    }


def _group(fields: Mapping[str, Field], prefix: str, manifest: Manifest) -> dict[str, Any]:
    """The features whose names begin with `prefix`. A "/" in the rest of a name makes a nested group."""
    features: dict[str, Any] = {}
    for name, field in fields.items():
        group, slash, _ = name.removeprefix(prefix).partition("/")
        if slash and group not in features:
            inner = {other: field for other, field in fields.items() if other.startswith(f"{prefix}{group}/")}
            features[group] = _group(inner, f"{prefix}{group}/", manifest)
        elif not slash:
            features[group] = _feature(name, field, manifest)
    together = _named("features_dict.FeaturesDict", featuresDict={"features": features})
    return _sequence(together) if prefix == _OBJECTS else together


def _feature(name: str, field: Field, manifest: Manifest) -> dict[str, Any]:
    if field.is_image:
        return _image(field)
    in_list = field.shape[:1] == (None,)
    one = Field(dtype=field.dtype, shape=field.shape[1:] if in_list else field.shape)
    if name in ("label", f"{_OBJECTS}label") and manifest.class_names and field.dtype == "int64":
        feature = _named("class_label_feature.ClassLabel", classLabel={"numClasses": str(len(manifest.class_names))})
    elif field.dtype == "string":
        feature = _named("text_feature.Text", text={})
    elif field.dtype == "bytes":
        feature = _named("tensor_feature.Tensor", tensor={"dtype": "string", "encoding": "none", "shape": {}})
    elif name == f"{_OBJECTS}bbox" or point_role(name, field) == "boxes":
        feature = _named("bounding_boxes.BBoxFeature", boundingBox=_BOX)
    elif one.shape:
        feature = _named("tensor_feature.Tensor", tensor=_tensor(one))
    else:
        feature = _named("scalar.Scalar", tensor=_tensor(one))
    return _sequence(feature) if in_list and not name.startswith(_OBJECTS) else feature


def _tensor(field: Field) -> dict[str, Any]:
    shape = {"dimensions": [str(size) for size in field.shape]} if field.shape else {}
    return {"dtype": field.dtype, "encoding": "none", "shape": shape}


def _sequence(feature: dict[str, Any]) -> dict[str, Any]:
    return _named("sequence_feature.Sequence", sequence={"feature": feature, "length": "-1"})


def _image(field: Field) -> dict[str, Any]:
    shape = {"dimensions": [str(-1 if size is None else size) for size in field.shape]}
    # TFDS's Image feature needs a known number of channels, and has decoders for JPEG and PNG alone. Other images are
    # plain tensors, which a user decodes.
    if codec_of(field).in_tfds and field.shape[2] is not None:
        image = {"dtype": field.dtype, "encodingFormat": field.encoding, "shape": shape}
        return _named("image_feature.Image", image=image)
    if is_pixel_array(field):
        tensor = {"dtype": field.dtype, "encoding": "bytes", "shape": shape}
    else:  # bytes, to be decoded, or shaped with the record's height and width
        tensor = {"dtype": "string", "encoding": "none", "shape": {}}
    return _named("tensor_feature.Tensor", tensor=tensor)


def _named(class_name: str, **body: Any) -> dict[str, Any]:
    return {"pythonClassName": f"{_FEATURES}.{class_name}", **body}
