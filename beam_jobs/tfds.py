"""The files that let `tfds.builder_from_directory(OUT)` open a dataset's TFRecords as they are.

Sources: tensorflow_datasets/core/proto/dataset_info.proto and feature.proto, in JSON.
"""

from __future__ import annotations

import json
from typing import Any

from shard_reader.format import Field, Manifest, Split

__all__ = ["METADATA_NAMES", "metadata_files"]

METADATA_NAMES = ("dataset_info.json", "features.json", "label.labels.txt")

_FEATURES = "tensorflow_datasets.core.features"


def metadata_files(manifest: Manifest, name: str) -> dict[str, bytes]:
    """Name and content of each file; none if the dataset has no TFRecords."""
    if "tfrecord" not in manifest.formats:
        return {}
    features = {key: _feature(key, field, manifest) for key, field in manifest.fields.items()}
    files = {"dataset_info.json": _dataset_info(manifest, name)}
    files["features.json"] = {
        "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    encoded = {path: (json.dumps(body, indent=1) + "\n").encode() for path, body in files.items()}
    if manifest.class_names:
        encoded["label.labels.txt"] = "".join(f"{n}\n" for n in manifest.class_names).encode()
    return encoded


def _dataset_info(manifest: Manifest, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "moduleName": "image_shards",
        "splits": [_split(key, split) for key, split in manifest.splits.items()],
    }


def _split(name: str, split: Split) -> dict[str, Any]:
    return {
        "name": name,
        "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
        "numBytes": str(sum(shard.files["tfrecord"].bytes for shard in split.shards)),
        "shardLengths": [str(shard.records) for shard in split.shards],
    }


def _feature(name: str, field: Field, manifest: Manifest) -> dict[str, Any]:
    if name == "label":
        size = len(manifest.class_names or ())
        return _named("class_label_feature.ClassLabel", classLabel={"numClasses": str(size)})
    if field.dtype == "string":
        return _named("text_feature.Text", text={})
    if name == "image":
        return _image(field)
    return _named("scalar.Scalar", tensor={"dtype": field.dtype, "encoding": "none", "shape": {}})


def _image(field: Field) -> dict[str, Any]:
    shape = {"dimensions": [str(-1 if size is None else size) for size in field.shape]}
    if field.encoding != "raw":
        image = {"dtype": field.dtype, "encodingFormat": field.encoding, "shape": shape}
        return _named("image_feature.Image", image=image)
    if field.is_fixed:
        tensor = {"dtype": field.dtype, "encoding": "bytes", "shape": shape}
    else:  # bytes, to be decoded and shaped with the record's height and width
        tensor = {"dtype": "string", "encoding": "none", "shape": {}}
    return _named("tensor_feature.Tensor", tensor=tensor)


def _named(class_name: str, **body: Any) -> dict[str, Any]:
    return {"pythonClassName": f"{_FEATURES}.{class_name}", **body}
