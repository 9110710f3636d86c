"""A dataset is a directory. This is version 1 of its contents.

```
OUT/
  dataset.json                               the manifest, written last
  train-00000-of-00002.tfrecord              a shard as TFRecord
  train-00000-of-00002.tfrecord.index.npy    its index
  train-00000-of-00002.h5                    the same records as HDF5
  train-00000-of-00002.h5.index.npy          its index
  rejects.jsonl                              one line for each input that is in no shard
  suspects.jsonl                             one line for each record whose image may be damaged
  duplicates.jsonl                           one line for each record with the bytes of an earlier one
  thumbnails.jsonl                           small pictures of rejects, suspects and changed images
  pixels.jsonl                               the sums over the pixels of each record that `statistics` are made of
  dataset_info.json  features.json  label.labels.txt    for TensorFlow Datasets (TFRecord only)
  metadata.parquet                           the fields of all records but images and bytes, as one table
  README.md  card-1.jpg  croissant.json      a page for people, its pictures, and Croissant's description
  train-00000-of-00002.tfrecord.idx          the index of a shard for DALI (`--dali-index`)
  dataset.g0001.json                         the manifest of an earlier generation
  g0002/                                     files that a later generation has added
```

A directory without `dataset.json` MUST NOT be read as a dataset: the manifest is renamed into place
when everything else is there.

**Manifest.** One JSON object in UTF-8. `format` is `"image-shards"`, `version` is `1`. `requires` is a list of names of
extensions: `payloads` stands in it where a record has a further image or a field of bytes (see Fields), `withdrawn`,
`relabeled` and `joined` where a generation needs them (see Generations), and version 1 has no other. A key that is
missing has its default: an empty list for `requires`. `files` maps the name of each file
beside shards that a reader may rely on to its SHA-256. The last key is `checksum`, the SHA-256 of the manifest's text
without it and without the comma before it, up to the last newline. `fields` maps each field's name to its type (see
Fields). `splits` maps a split's name to its `records`, its `shards` and, where records have labels, the number of
records of each class in `classes`. `shards` are columns, with a value for each shard, in order: `records`, the number
of records, and in `files`, for each format, `path`, `bytes`, `sha256`, `index_sha256` (each a single text, of 64
hexadecimal digits for each file) and `index_crc32c`, the CRC-32C of the checksums at the end of the index. Without
`index_crc32c`, indexes end with their rows. In earlier versions `shards` is a list of objects, each with `records` and,
in `files`, an object for each format; a reader MUST read both. All formats hold the same records in the same order.
`statistics` are the mean and standard deviation of each channel over every pixel of one split, of pixels scaled to
0..1, before any normalisation; of inputs that are floats those of the values themselves, without NaN, and then `scaled`
is `false`. Their `sums` are the exact integers that they are made of, for each channel: the `total` of all values, that
of their `squares`, and the `peak` in which values are counted: 255 or 65,535, and 2^176 for floats. `counts` has one
number for each way of an input, those of inputs with the bytes of another (`duplicates`, of which `leaks` are in
another split, and `contradictions` have other labels), those of records that look like another (`near_duplicates`,
`near_leaks`, `near_contradictions`; 0 if they were not looked for), that of stored images whose decoder complained
(`suspects`), that of inputs left out by their ids (`excluded`, if any), that of inputs of an append that were there
already, the same (`skipped`, if any), and in `changed` the number of records that each kind of change has touched.
`left_out` names everything beside the images that was not read, with the reason and the number of files, and `warnings`
are sentences about the layout of the inputs. `hosts` is there where images come from web servers: for each of the 1,000
with the most images their number (`images`) and the bytes of their files (`bytes`), and for `...` those of all others.
`fingerprint` identifies the inputs, and the options and codecs that decide the bytes.

**Generations.** A dataset changes by generations, which never change. `dataset.json` is the manifest of the newest. It
is complete: a reader needs no other one. That of an earlier generation N stays as it was, as `dataset.gNNNN.json`, with
at least four digits. `generations` has an object for each, with rising numbers: `number`, `made` (the command:
`prepare`, `append`, `withdraw`, `relabel`, `compact` or `join`), `records` (those that count, of all splits),
`fingerprint`, and `checksum`, that of its manifest, by which each generation names its parent; the last is the
manifest's own generation, and has none. A manifest without `generations` is of the first. `folder` is the folder with
the files that a generation has added, or empty for the directory itself; names of files are then as
`g0002/train-00000-of-00001.tfrecord`, for shards, indexes and all other files. `is_removed` is true where a later
`compact` has removed its files. Shards of later generations follow those of earlier ones in their split, class names
too, and numbers of classes never change. A file that a manifest names is never written again.

Records that no longer count stay in their shards. A split has then, as `withdrawn`, their number (`records`) and the
`path` of a NumPy file of their rising numbers (`<u8`) among all records of its shards, counted from 0; the split's
`records` and `classes` and all counts are of those that remain. Its SHA-256 is in `files`. The tables of the
generations together (`metadata.parquet` of each folder, in the order of `files`) have a row for each record that
counts.

**Refused and ignored.** A reader MUST refuse a dataset with another `version`, with a name in `requires` that it does
not know, with fields that need a name that `requires` lacks, or with a field whose `dtype`, `encoding` or `role` it
does not know: the values of an unknown role would stay while the pixels move, and be wrong labels. It MUST refuse an
index of another size or with other columns than those that follow from `fields`, and an extent that ends outside of its
shard. It MUST ignore all keys of the manifest and of the lists of lines (`rejects.jsonl` and the others) that it does
not know, at any depth; features of a TFRecord and datasets of an HDF5 file that `fields` does not name; and files of
the directory that the manifest does not name.

**Fields.** A field has a `dtype`, a `shape` and, if it needs them, the keys `encoding`, `role`, `names` and
`flip_pairs`. In `shape`, `null` stands for a size that differs between records: the first one alone, except for images.
The kind of a field follows from these:

| kind | `dtype` | `shape` | a value |
|---|---|---|---|
| scalar | `int64`, `float32` | `[]` | one number |
| array | `int64`, `float32` | `[a, b, ...]` | numbers, of the same shape in every record |
| string | `string` | `[]` | one text in UTF-8 |
| list | `int64`, `float32`, `string` | `[null, a, ...]`, of strings `[null]` | any number of elements |
| bytes | `bytes` | `[]` | bytes of any content, also of none |
| image | `uint8`, `uint16`, `float16`, `float32` | `[height, width, channels]` | pixels, in an `encoding` |

`encoding` is `jpeg`, `png`, `webp`, `avif` or `raw`, of each image field for itself. Every record has the image
`image`. Other image fields are *further images*: they have any name, and every record has each of them; one of zeros,
or no bytes, may stand for one that an input lacked. A further image may differ in size from `image`; those that
`prepare` writes have the height and the width of their record. Raw pixels of a further image without a fixed shape
always have them. The PNG file of a field that is a mask has no palette: its grey values are the values.

`role` says how values move with the pixels of `image`, when a reader crops, resizes or flips it:

| `role` | of | meaning |
|---|---|---|
| none, `photo` | an image | Pixels are filtered. |
| `mask` | an image | Pixels are numbers, of which the nearest stays. One channel is read as `[height, width]`. |
| `depth` | an image | Pixels are measured values: they keep their unit, and no colour is managed. |
| `boxes` | a list `[null, 4]` | ymin, xmin, ymax, xmax as parts of the image's height and width. |
| `points` | a list `[null, 2]` | y and x as parts of the image's height and width. |
| `keypoints` | a list `[null, k, 3]` | k points of each object: y, x as above, and a visibility (see below). |

Lists with a role are of `float32`. In earlier datasets fields have no roles: `objects/bbox` is then `boxes` and
`objects/point` is `points`, if they are such lists. The visibility of a keypoint is 0 (not labelled), 1 (hidden) or 2
(visible). One of visibility 0 is `0, 0, 0`; one that a crop has cut off has coordinates below 0 or above 1. Keypoints
may have `names`, a list of k texts in their order, and `flip_pairs`, a list of pairs of their numbers (`[[1, 2], [3,
4]]`, from 0 on): the two of a pair change places when an image is mirrored.

**TFRecords of others** become a dataset where they are (`image-shards index`): an index beside each file, and a
manifest in which each field has a `feature`, the name of the one it is read from. `height` and `width` are those
in the image's own header if their `feature` is the image's. Where no feature is a unique text, there is no field `id`:
a record's id is then its file's name and its row, as `train-00000-of-00002.tfrecord:17`.

**Record.** `image` (the payload, as that of each image: an encoded file, or `raw` little-endian pixels in the order
height, width, channel, of 1 to 16 channels; a JPEG may have restart markers, at which a reader may cut a part out of
it; a PNG has 16 bits a value where the `dtype` of its field is `uint16`, and 8 otherwise), `id` (UTF-8, unique in the
dataset), `height`, `width` (those of `image`), `original_height`, `original_width` (the pixels of the upright input,
before it is cropped, resized or padded), `content_hash` (the first 64 bits of the XXH3-128 of the input), `phash`,
`dhash` (two perceptual hashes of 64 bits of the stored image without its border; both 0 for an image of one colour,
which has none), `values_hash` (the first 64 bits of the XXH3-128 of the labels, fields and further files of the input,
see below; all four hashes as signed integers), `label` (the index into `class_names`, or a number of the inputs' own; a
list of them where a record has several; absent where the inputs have no labels), and fields that the inputs bring
along, of any name. All fields that begin with `objects/` have an element for each of the n objects: `objects/bbox` its
box, `objects/keypoints` its keypoints, `objects/label` its class, `objects/segmentation` a text of JSON with its
outline: either an object with `size` (height and width of the stored image) and `counts`, the compressed run lengths of
COCO, or a list of polygons, each a flat list `[y, x, y, x, ...]` of parts of the stored image's height and width. In an
image `instances` of the role `mask`, a pixel is the value that `objects/instance` has for its object, and 0 elsewhere.
In an image `mask` made of outlines, it is the number of the class and 1, and 0 elsewhere.

**The values of an input.** `values_hash` is that of a text, followed by the name in UTF-8, a zero byte and the 16 bytes
of the XXH3-128 of each further file of the record, in the order of their names. The text is JSON in ASCII with sorted
keys and no spaces: a list of the values by their names, and of the size that the inputs say the image has, or `null`.
Labels with names are texts, and a label that is missing is -1. Values are as the inputs have them: boxes before a crop.
Two records with the same `content_hash` and `values_hash` are of the same bytes, labels, boxes and fields.

**Where values lie.** A shard is a file of TFRecord (plain framing with masked CRC-32C around a `tf.train.Example`) or
of HDF5 (a dataset of each field's name, with a row for each record):

| kind | feature of a TFRecord | dataset of HDF5 |
|---|---|---|
| scalar | `int64_list`, `float_list`: one value | `<i8`, `<f4` of shape `[records]` |
| array | `int64_list`, `float_list`: all values, row by row | `<i8`, `<f4` of shape `[records, a, b, ...]` |
| string | `bytes_list`: one value | variable-length UTF-8 |
| list of numbers | `int64_list`, `float_list`: all values, row by row | variable-length `<i8`, `<f4`, flat |
| list of strings | `bytes_list`: all values | variable-length UTF-8: a list of JSON |
| bytes | `bytes_list`: one value | variable-length `uint8` |
| image | `bytes_list`: one value, the payload | variable-length `uint8`: the payload; or an array, see below |

Features are written in the order of their names' bytes. A TFRecord without a record is a file of zero bytes. Where all
raw images of a field have one size in a shard of HDF5, they are an array `[records, height, width, channels]` of their
`dtype`, chunked by rows, never compressed, whatever those of other shards are. An image's dataset has its `encoding` as
an attribute. A `/` in a name makes a group. A shard of HDF5 without a record has datasets without a row.

**Index.** A NumPy file (`.npy`, no pickle) beside each shard: a structured array, little-endian and without padding, a
row for each record, in order. Its columns are, in this order, those of every index, and then those of each other field
in the order of `fields`, but `image`, `id`, `height` and `width`:

| column | dtype | meaning |
|---|---|---|
| `offset` | `<u8` | first byte of the payload of `image` in the shard file |
| `length` | `<u8` | its bytes |
| `id_offset` | `<u8` | first byte of `id`; 0 where there is no `id` |
| `id_length` | `<u4` | its bytes; 0 where there is no `id` |
| `id_crc32c` | `<u4` | their CRC-32C; 0 where there is no `id` |
| `crc32c` | `<u4` | the CRC-32C of the payload of `image` |
| `height`, `width` | `<u4` | pixels of `image` |
| NAME | `<i8`, `<f4` | a scalar, or an array of the field's shape |
| NAME`_offset` | `<u8` | first byte of a string, a list, bytes or a further image |
| NAME`_length` | `<u4` | bytes of a string or a list; `<u8` for bytes and further images |
| NAME`_crc32c` | `<u4` | their CRC-32C |
| NAME`_height`, NAME`_width` | `<u4` | pixels of a further image |

The bytes of a string are those of the text; of a list those of its message (TFRecord), of its array or of its JSON
(HDF5); of an image those of its payload, which in an array of HDF5 are one row of it. A list that a TFRecord does not
have is empty. Two fields whose columns would have one name cannot be in one dataset. CRC-32Cs are not masked; that of
no bytes is 0. After the rows stands the CRC-32C (`<u4`) of each block of 64 rows, the last of which may be shorter:
NumPy does not read so far. The index repeats parts of the shard, and can be made again from it.

**Replaced indexes.** A generation that gives records other values, or new fields, leaves the shards as they are. Its
manifest names another index for each shard with such a record, in `replaced_index` of the shard's file (empty for the
index beside the shard), and `relabeled` stands in `requires`. That index has the columns of all `fields`, and the
values that count: whatever else the shard says of them is of an earlier generation. After its checksums of blocks
follow `index_values` bytes of values, those of strings, lists and fields of bytes that are not in the shard. An offset
from the size of the shard file on is an offset into these: the byte at `bytes` of the manifest is the first of them.
They have the form that they would have in a shard of that format. A value lies wholly in the shard or wholly in the
index, and `image`, `id` and further images always lie in the shard. `index_crc32c` is that of the checksums of blocks,
`index_sha256` that of the whole file. A replaced index cannot be made again from its shard.

**Joined datasets.** With `joined` in `requires`, shards lie in other directories below the one that has this dataset's
directory: `path` and `replaced_index` then begin with `../`, once, followed by the names of folders, and a `path` ends
with the suffix of its format. A reader MUST refuse all other paths with `..`, those that are absolute, and URLs. In an
object store, the directory above is in the same bucket.

**Rejects.** One JSON object for each line: `id`, `uri`, `stage` (`list` or `read`), `reason` (a short class)
and `message`.

**Suspects.** One JSON object for each record whose image a decoder read with a complaint, but without a loss of
pixels: `id`, `split` and `message`, in the decoder's words.

**Pixels.** One list of JSON for each record of the split of `statistics`, in the order of the records: the number of
pixels, the peak, and for each channel the sums of the values and of their squares, as in `statistics`: `[4096, 255,
[389012, ...], [41093220, ...]]`. Images whose sums do not fit together have no `statistics`, and their lines all the
same.

**Thumbnails.** One JSON object for each picture, at most 64 of rejects and suspects, and 64 of other records: `id`,
`split` (`null` for a reject), `group` (`reject`, `suspect`, `change` or `usual`), `reason` (that of the reject, the
message of the suspect, or the kind of change), `before` (the upright input) and `after` (the pixels to be stored), each
a JPEG file in base64, or `null`.

**Duplicates.** One JSON object for each record whose input has the same bytes as an earlier one: `id`, `split` and
`labels`, `first_id`, `first_split` and `first_labels` of the first of them, `leak`, whether it is in another split than
that, and `contradiction`, whether it has other labels. Then one for each record of other bytes that looks like an
earlier one (`near` is true), with the number of bits in which its `phash` differs from that of the first of its group
(`distance`), or of a record of an earlier generation that is in another split, if the group has one. A group is
connected by pairs whose `phash` differs in at most `options.near_distance` bits, and whose `dhash` in four more. Groups
of more than 1,000 are in `warnings` alone.

**Papers.** `metadata.parquet` has the columns of all fields but images and bytes, `split`, and, where labels have
names, those in `label_name` (a list of them for a list of labels; `objects/label_name` for those of objects); a name
that a field has gets a `_` at its end. `README.md` is a dataset card with the YAML header of the Hugging Face Hub,
`croissant.json` the description in Croissant 1.1. Neither is in `files`: the last 64 hexadecimal digits of each are the
SHA-256 of its own text with zeros in their place, so that an edited file is recognised, and kept. A `.idx` file has a
line `OFFSET SIZE` for each record of a TFRecord file, in bytes, with its frame."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, NoReturn

import numpy as np

from shard_reader.errors import DatasetError, ManifestError
from shard_reader.format.field_checks import MOST_CHANNELS, field_problems, least_bytes
from shard_reader.format.fields import (
    FORMAT_NAME,
    FORMAT_VERSION,
    IMAGE_DTYPES,
    INDEX_DTYPES,
    JOINED,
    PAYLOADS,
    RELABELED,
    WITHDRAWN,
    Field,
    extensions,
)
from shard_reader.format.image_codecs.table import IMAGE_CODECS
from shard_reader.format.json_object import JsonObject
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.format.shard_table import SHA256_DIGITS, FileColumns, Shard, ShardFile, ShardTable, index_name
from shard_reader.printable import excerpt, printable

__all__ = [
    "DUPLICATES_NAME",
    "ENCODINGS",
    "FORMATS",
    "GENERATION_KINDS",
    "LOCK_NAME",
    "MANIFEST_NAME",
    "MOST_BYTES",
    "PAPER_NAMES",
    "PARQUET_NAME",
    "PICTURE_NAMES",
    "PIXELS_NAME",
    "REJECTS_NAME",
    "SUSPECTS_NAME",
    "TFDS_NAMES",
    "THUMBNAILS_NAME",
    "Counts",
    "Fingerprint",
    "Generation",
    "Host",
    "LeftOut",
    "Manifest",
    "Shard",
    "ShardFile",
    "ShardTable",
    "Split",
    "Statistics",
    "Sums",
    "Withdrawn",
    "canonical_json",
    "checksum_of",
    "dali_name",
    "generation_folder",
    "generation_manifest",
    "index_name",
    "shard_name",
    "with_checksum",
]


MANIFEST_NAME: Final = "dataset.json"
MOST_BYTES: Final = 1 << 27
"""The most bytes of a manifest: enough for 200,000 shards in two formats."""

REJECTS_NAME: Final = "rejects.jsonl"

SUSPECTS_NAME: Final = "suspects.jsonl"
DUPLICATES_NAME: Final = "duplicates.jsonl"
THUMBNAILS_NAME: Final = "thumbnails.jsonl"
PIXELS_NAME: Final = "pixels.jsonl"
LOCK_NAME: Final = "_image-shards.lock"
"""A file of the job that writes a dataset: beside no manifest, it says that the dataset is not finished."""
TFDS_NAMES: Final = ("dataset_info.json", "features.json", "label.labels.txt", "objects-label.labels.txt")
"""The files for TensorFlow Datasets."""
PARQUET_NAME: Final = "metadata.parquet"
"""The fields of all records but images and bytes, as one table."""
PICTURE_NAMES: Final = ("card-1.jpg", "card-2.jpg", "card-3.jpg")
"""The pictures of the card."""
PAPER_NAMES: Final = ("README.md", "croissant.json")
"""The card and Croissant's description. People edit them: they are not in `files`."""
FORMATS: Final[Mapping[str, str]] = {name: format.suffix for name, format in SHARD_FORMATS.items()}
"""Each format's name and its files' suffix."""
ENCODINGS: Final = tuple(IMAGE_CODECS)
GENERATION_KINDS: Final = ("prepare", "append", "withdraw", "relabel", "compact", "join")
"""The commands that make a generation."""

_CHECKSUM: Final = re.compile(r',\n "checksum": "([0-9a-f]{64})"\n}\n\Z')
_SHA256: Final = re.compile("[0-9a-f]{64}")
_LAST: Final = 200  # the last characters of a manifest, in which the checksum stands
_PART: Final = 1 << 20
# The names of `requires` that this reader knows.
_EXTENSIONS: Final = frozenset({PAYLOADS, WITHDRAWN, RELABELED, JOINED})
_PLAIN_NAME: Final = re.compile(r"(?:g[0-9]{4,9}/)?[\w-][\w.-]*")
# A shard of another directory of the same parent. Only names of shards and of their indexes: the manifest of a stranger
# leads to no other file.
_BESIDE: Final = r"\.\./(?:[\w-][\w ,.=+@-]*/)+[\w-][\w.-]*"
_SHARD_PATH: Final = re.compile(rf"{_PLAIN_NAME.pattern}|{_BESIDE}(?:{'|'.join(map(re.escape, FORMATS.values()))})")
_INDEX_PATH: Final = re.compile(rf"{_PLAIN_NAME.pattern}|{_BESIDE}{re.escape(index_name(''))}")
_FOLDER: Final = re.compile("g[0-9]{4,9}")
_NAMES: Final = 4096  # names that are checked together
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")  # half of a pair, or a pair
_MOST_FILE_BYTES: Final = 1 << 50
_PEAKS: Final = (255, 65_535, 1 << 176)  # of 8 bits, of 16 bits, and of floats
_MOST_SUM: Final = 1 << 1024
_DEEPEST: Final = 32  # of options: they are copied and shown by functions that call themselves
_MOST_VALUES: Final = 1 << 23  # of a manifest's JSON: in memory, a value takes more bytes than in the text


def shard_name(split: str, number: int, count: int, format: str) -> str:
    """The file name of a shard: `train-00003-of-00012.tfrecord`."""
    return f"{split}-{number:05d}-of-{count:05d}{FORMATS[format]}"


def generation_folder(number: int) -> str:
    """The folder of the files that a generation adds to a dataset: `g0002`."""
    return f"g{number:04d}"


def generation_manifest(number: int) -> str:
    """The name of the manifest of a generation that is not the newest: `dataset.g0001.json`."""
    return f"dataset.{generation_folder(number)}.json"


def checksum_of(text: str) -> str:
    """The checksum in the text of a manifest; "" where there is no checksum at its end."""
    found = _CHECKSUM.search(text[-_LAST:])
    return "" if found is None else found[1]


def dali_name(shard: str) -> str:
    """The file name of a TFRecord shard's index for DALI."""
    return f"{shard}.idx"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """The number of records of a split that no longer count, and the file with their numbers."""

    records: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The shards of one split, in order, and the number of records of each class, by its name or number.

    `records` that were `withdrawn` are in shards, and in no other number.
    """

    records: int
    shards: ShardTable
    classes: Mapping[str, int] | None = None
    withdrawn: Withdrawn | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """The exact sums of each channel, of values up to `peak`, and of their squares."""

    total: tuple[int, ...]
    squares: tuple[int, ...]
    peak: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Mean and standard deviation of each channel, of pixels scaled to 0..1, over one split.

    Those of inputs that are floats are not `scaled`: they have no known range. Datasets of before have no `sums`.
    """

    split: str
    pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scaled: bool = True
    sums: Sums | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The fates of the inputs: each is written or rejected; `planned` ones were not rejected by the listing.

    `duplicates` were written, and have the bytes of another input, which for `leaks` is in another split, and for
    `contradictions` has other labels. `suspects` were written, too: their decoder complained. `changed` has the number
    of records for each kind of change to their values, such as "depth" for 16 bits that became 8; a box is counted for
    itself. `excluded` inputs were left out by their ids, and `skipped` ones were there already, the same: they are in
    no other number. `near_duplicates` look like an earlier record, if they were looked for; the kinds of them are as
    those of `duplicates`.
    """

    ignored: int
    planned: int
    written: int
    rejected: int
    duplicates: int = 0
    leaks: int = 0
    contradictions: int = 0
    suspects: int = 0
    excluded: int = 0
    skipped: int = 0
    near_duplicates: int = 0
    near_leaks: int = 0
    near_contradictions: int = 0
    changed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Something beside the images that was not read: `what` it is, `why`, and its number of files."""

    what: str
    why: str
    files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A web server that images come from: their number, and the bytes of their files."""

    images: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The inputs of a dataset's bytes: SHA-256 of the listing and of the options, and codecs."""

    inputs: str
    options: str
    codecs: Mapping[str, str]

    @property
    def digest(self) -> str:
        """One short name for all of it, the same for every format of a dataset."""
        return hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A state of a dataset, which never changes.

    Attributes:
        number: the place in the dataset's history, from 1.
        made: the command that made it, one of `GENERATION_KINDS`.
        records: the number of records that count, of all splits.
        checksum: the checksum of its manifest; "" for that of the manifest in which it stands.
        fingerprint: the fingerprint of its manifest, with the versions of the codecs that wrote its last shards.
        folder: the folder with the files that it added; "" for the dataset's own.
        is_removed: whether a later `compact` has removed its files.
    """

    number: int
    made: str
    records: int
    fingerprint: Fingerprint = field(repr=False)
    checksum: str = field(default="", repr=False)
    folder: str = ""
    is_removed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All of `dataset.json`.

    Examples:
        >>> manifest = Manifest.from_json(open("shards/dataset.json").read())  # doctest: +SKIP
        >>> manifest.splits["train"].records  # doctest: +SKIP
        270
    """

    fields: Mapping[str, Field]
    formats: tuple[str, ...]
    splits: Mapping[str, Split]
    class_names: tuple[str, ...] | None
    statistics: Statistics | None
    counts: Counts
    seed: int
    options: Mapping[str, Any]
    fingerprint: Fingerprint
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    hosts: Mapping[str, Host] = field(default_factory=dict)
    generations: tuple[Generation, ...] = ()

    @property
    def records(self) -> int:
        """The number of records that count, of all splits."""
        return sum(split.records for split in self.splits.values())

    @property
    def history(self) -> tuple[Generation, ...]:
        """The generations up to this one, whose manifest this is. A dataset that never changed has one."""
        first = Generation(number=1, made="prepare", records=self.records, fingerprint=self.fingerprint)
        return self.generations or (first,)

    @property
    def generation(self) -> int:
        """The number of the generation whose manifest this is."""
        return self.generations[-1].number if self.generations else 1

    def lists(self, name: str) -> tuple[str, ...]:
        """The files of one name that the generations of the dataset have, such as all `rejects.jsonl`."""
        own = re.compile(rf"(?:\d+-)?{re.escape(name)}")
        return tuple(file for file in self.files if own.fullmatch(file.rpartition("/")[2]))

    def to_json(self) -> str:
        """The text of `dataset.json`, with its checksum; equal manifests give equal text."""
        body = {"format": FORMAT_NAME, "version": FORMAT_VERSION, **asdict(replace(self, splits={}))}
        for name, split in self.splits.items():
            body["splits"][name] = {
                "records": split.records,
                "shards": split.shards.to_plain(),
                "classes": split.classes,
            }
            if split.withdrawn is not None:
                body["splits"][name]["withdrawn"] = asdict(split.withdrawn)
        for described in body["fields"].values():
            # Most fields have none of these: the keys would be noise in every manifest.
            for name in ("feature", "role", "names", "flip_pairs"):
                if not described[name]:
                    del described[name]
        body["requires"] = sorted({*self.requires, *extensions(self.fields), *_of_splits(self.splits)})
        # Without such inputs, a manifest has the text that earlier versions gave.
        if not self.counts.excluded:
            del body["counts"]["excluded"]
        if not self.counts.skipped:
            del body["counts"]["skipped"]
        if self.statistics is not None and self.statistics.scaled:
            del body["statistics"]["scaled"]
        if self.statistics is not None and self.statistics.sums is None:
            del body["statistics"]["sums"]
        if not self.hosts:  # of a dataset that is not from the web
            del body["hosts"]
        if not self.generations:
            del body["generations"]
        return with_checksum(body)

    def shards(self) -> Iterator[Shard]:
        """The shards of all splits."""
        for split in self.splits.values():
            yield from split.shards

    @classmethod
    def from_json(cls, text: str, *, checked: bool = True) -> Manifest:
        """Read `dataset.json`.

        Args:
            text: the text of the file.
            checked: whether to check the checksum, which texts inside of older pickles do not have.

        Raises:
            DatasetError: the text is of another version, needs a newer reader, or is not a manifest at all.
            ManifestError: the manifest has problems; all of them are reported, each with its path.
        """
        problems: list[str] = []
        raw = _parsed(text)
        top = JsonObject(raw, "$", problems)
        _check_version(raw)
        manifest = _read_manifest(top)
        # Values that could not be read are empty, and would show here as problems a second time.
        if not problems:
            _check_consistency(manifest, problems)
        if not problems and checked:
            _check_text(text, problems)
        if problems:
            raise ManifestError(problems)
        return manifest


def _parsed(text: str) -> Any:
    """The JSON of a manifest, of a bounded size.

    Raises:
        ManifestError: it is no JSON, is too large, or has texts that are no Unicode.
    """
    if len(text) > MOST_BYTES or text.count(",") + text.count("[") + text.count("{") > _MOST_VALUES:
        raise ManifestError(
            [f"$: has more than {MOST_BYTES:,} bytes or {_MOST_VALUES:,} values: no dataset needs them"]
        )
    try:
        raw = json.loads(text, parse_constant=_no_constant)
        if "\\u" in text and _SURROGATE.search(text):
            json.dumps(raw, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "a text is no Unicode" if isinstance(error, UnicodeEncodeError) else printable(str(error))
        raise ManifestError([f"$: not JSON: {reason}"]) from None
    return raw


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check_version(raw: Any) -> None:
    if not isinstance(raw, dict) or raw.get("format") != FORMAT_NAME:
        raise DatasetError(f'dataset.json has no "format": "{FORMAT_NAME}": another program wrote it')
    if raw.get("version") != FORMAT_VERSION or raw["version"] is True:
        raise DatasetError(
            f"dataset.json has format version {excerpt(raw.get('version'))}, this reader knows version"
            f" {FORMAT_VERSION}: install the release of image-shards that wrote it"
        )
    required = raw.get("requires")
    # What is no list is reported with the other problems.
    names = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    unknown = sorted(names - _EXTENSIONS)
    if unknown:
        raise DatasetError(
            f"dataset.json requires {printable(', '.join(unknown))[:200]}, which this reader does not know: install a"
            " newer release of image-shards"
        )


def with_checksum(body: Mapping[str, Any]) -> str:
    """The text of `dataset.json`: an object of JSON, and its checksum as the last key."""
    body = {name: value for name, value in body.items() if name != "checksum"}
    text = _indented(body) + "\n"
    return f'{text[:-3]},\n "checksum": "{_sha256(text, len(text))}"\n}}\n'


def _indented(value: Any, depth: int = 1) -> str:
    """JSON with a line for each value of an object, and for each object of a list; other lists are in one line."""
    # `json.dumps` has a line for each number of a list: a fifth of a large manifest would be spaces.
    if depth > _DEEPEST:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, dict) and value:
        lines = [f"{json.dumps(name, ensure_ascii=False)}: {_indented(one, depth + 1)}" for name, one in value.items()]
        first, last = "{}"
    elif isinstance(value, list | tuple) and any(isinstance(one, dict | list | tuple) for one in value):
        lines, (first, last) = [_indented(one, depth + 1) for one in value], "[]"
    else:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = ",".join(f"\n{' ' * depth}{line}" for line in lines)
    return f"{first}{inner}\n{' ' * (depth - 1)}{last}"


def _sha256(text: str, end: int, tail: str = "") -> str:
    """The SHA-256 of a text up to `end`, and of its new tail."""
    digest = hashlib.sha256()
    for start in range(0, end, _PART):  # by parts, since a copy of a manifest may take many megabytes
        digest.update(text[start : min(end, start + _PART)].encode())
    digest.update(tail.encode())
    return digest.hexdigest()


def _check_text(text: str, problems: list[str]) -> None:
    """Check that the text is the one that was written."""
    found = _CHECKSUM.search(text[-_LAST:])
    if found is None:
        problems.append("$.checksum: is missing, or not at the end: the file was changed or is of an earlier version")
    elif _sha256(text, len(text) - len(found[0]), "\n}\n") != found[1]:
        problems.append("$.checksum: is of another text: the file was changed after it was written")


def _read_manifest(top: JsonObject) -> Manifest:
    has_names = top.value.get("class_names") is not None
    return Manifest(
        fields=top.items("fields", _read_field),
        formats=top.sequence("formats", lambda o: o.text("", tuple(FORMATS))),
        splits=top.items("splits", _read_split),
        class_names=top.sequence("class_names", lambda o: o.text("")) if has_names else None,
        statistics=_read_statistics(top.child("statistics")) if top.value.get("statistics") else None,
        counts=_read_counts(top.child("counts")),
        seed=top.get("seed", int, 0),
        options=top.get("options", dict, {}),
        fingerprint=_read_fingerprint(top.child("fingerprint")),
        left_out=top.sequence("left_out", _read_left_out) if "left_out" in top.value else (),
        warnings=top.sequence("warnings", lambda o: o.text("")) if "warnings" in top.value else (),
        requires=top.sequence("requires", lambda o: o.text("")) if "requires" in top.value else (),
        files=_read_files(top.child("files")) if "files" in top.value else {},
        hosts=top.items("hosts", _read_host) if "hosts" in top.value else {},
        generations=top.sequence("generations", _read_generation) if "generations" in top.value else (),
    )


def _read_folder(o: JsonObject) -> str:
    folder = o.text("folder")
    if folder and not _FOLDER.fullmatch(folder):
        o.note(o.at("folder"), f"must be as g0002, got {excerpt(folder)}")
    return folder


def _read_files(o: JsonObject) -> dict[str, str]:
    for name in o.value:
        _check_plain(o, name, name)
    return {name: o.text(name) for name in o.value}


def _read_field(o: JsonObject) -> Field:
    has_encoding, has_feature, has_role = (o.value.get(key) is not None for key in ("encoding", "feature", "role"))
    return Field(
        dtype=o.text("dtype", (*IMAGE_DTYPES, *INDEX_DTYPES, "string", "bytes")),
        shape=o.sequence("shape", lambda e: None if e.value[""] is None else e.count("")),
        encoding=o.text("encoding", ENCODINGS) if has_encoding else None,
        feature=o.text("feature") if has_feature else None,
        role=o.text("role") if has_role else None,
        names=o.sequence("names", lambda e: e.text("")) if "names" in o.value else (),
        flip_pairs=o.sequence("flip_pairs", _read_pair) if "flip_pairs" in o.value else (),
    )


def _read_pair(element: JsonObject) -> tuple[int, int]:
    pair = element.sequence("", lambda e: e.count(""))
    if len(pair) != 2:
        element.note(element.path, f"a pair has two numbers, here are {len(pair)}")
        return 0, 0
    return pair[0], pair[1]


def _read_split(o: JsonObject) -> Split:
    classes = None
    if o.value.get("classes") is not None:
        counts = o.child("classes")
        classes = {name: counts.count(name) for name in counts.value}
    withdrawn = _read_withdrawn(o.child("withdrawn")) if o.value.get("withdrawn") is not None else None
    return Split(records=o.count("records"), shards=_read_shards(o), classes=classes, withdrawn=withdrawn)


def _read_withdrawn(o: JsonObject) -> Withdrawn:
    found = Withdrawn(records=o.count("records"), path=o.text("path"))
    _check_plain(o, "path", found.path)
    return found


def _read_generation(element: JsonObject) -> Generation:
    o = JsonObject(element.value[""], element.path, element.problems)
    return Generation(
        number=o.count("number"),
        made=o.text("made"),
        records=o.count("records"),
        fingerprint=_read_fingerprint(o.child("fingerprint")),
        checksum=o.text("checksum"),
        folder=_read_folder(o),
        is_removed=o.get("is_removed", bool, False),
    )


def _read_shards(o: JsonObject) -> ShardTable:
    if isinstance(o.value.get("shards"), list):  # an earlier version, with an object for each shard
        return _read_shard_list(o)
    table = o.child("shards")
    records = table.counts("records")
    files = table.items("files", lambda columns: _read_columns(columns, len(records)))
    # A table of columns of several lengths could not be used, not even to look for other problems.
    return ShardTable([], {}) if table.problems else ShardTable(records, files)


def _read_shard_list(o: JsonObject) -> ShardTable:
    shards = o.sequence("shards", _read_shard)
    for number, shard in enumerate(shards):
        if set(shard.files) != set(shards[0].files):
            o.note(f"{o.path}.shards[{number}].files", f"has {sorted(shard.files)}, not {sorted(shards[0].files)}")
        for format, file in shard.files.items():
            if not len(file.sha256) == len(file.index_sha256) == SHA256_DIGITS:
                o.note(f"{o.path}.shards[{number}].files.{format}", f"a SHA-256 has not {SHA256_DIGITS} digits")
    return ShardTable([], {}) if o.problems else ShardTable.of(shards)


def _read_shard(element: JsonObject) -> Shard:
    o = JsonObject(element.value[""], element.path, element.problems)
    return Shard(records=o.count("records"), files=o.items("files", _read_file))


def _read_file(o: JsonObject) -> ShardFile:
    path = o.text("path")
    _check_plain(o, "path", path, _SHARD_PATH)
    return ShardFile(
        path=path,
        bytes=o.count("bytes"),
        sha256=o.text("sha256"),
        index_sha256=o.text("index_sha256"),
    )


def _read_columns(o: JsonObject, count: int) -> FileColumns:
    """The columns of the files of one format, with a value for each shard."""
    paths, sizes = o.texts("path"), o.counts("bytes")
    _check_paths(o, "path", paths, _SHARD_PATH)
    replaced, values = None, None
    if "replaced_index" in o.value:
        replaced, values = o.texts("replaced_index"), o.counts("index_values")
        _check_paths(o, "replaced_index", [name for name in replaced if name], _INDEX_PATH)
    # Without it, an index has no checksums of its blocks, and is checked as a whole.
    checksums = o.counts("index_crc32c") if "index_crc32c" in o.value else None
    columns: dict[str, Sequence[object] | None] = {
        "path": paths,
        "bytes": sizes,
        "index_crc32c": checksums,
        "replaced_index": replaced,
        "index_values": values,
    }
    for name, column in columns.items():
        if column is not None and len(column) != count:
            o.note(o.at(name), f"has {len(column)} values for {count} shards")
    digests = {name: o.text(name) for name in ("sha256", "index_sha256")}
    for name, digits in digests.items():
        if len(digits) != SHA256_DIGITS * count:
            o.note(o.at(name), f"has {len(digits)} digits, {SHA256_DIGITS} for each of {count} shards are expected")
    return FileColumns(
        path=paths,
        bytes=sizes,
        index_crc32c=checksums,
        replaced_index=replaced,
        index_values=values,
        **digests,
    )


def _check_paths(o: JsonObject, key: str, paths: Sequence[str], pattern: re.Pattern[str]) -> None:
    several = re.compile(rf"(?:(?:{pattern.pattern})\n)*")
    for first in range(0, len(paths), _NAMES):
        # Many at once, which takes a tenth of the time; a line break in a name would make two of it.
        lines = "\n".join([*paths[first : first + _NAMES], ""])
        if lines.count("\n") != len(paths[first : first + _NAMES]) or not several.fullmatch(lines):
            for number, path in enumerate(paths[first : first + _NAMES], first):
                _check_plain(o, f"{key}[{number}]", path, pattern)


def _check_plain(o: JsonObject, key: str, name: str, pattern: re.Pattern[str] = _PLAIN_NAME) -> None:
    # A manifest is data from elsewhere: a path such as ../../etc/passwd must not lead out of the dataset.
    if not pattern.fullmatch(name):
        joined = "" if pattern is _PLAIN_NAME else ", or a shard of a dataset beside this one"
        places = f"must be a plain file name, or one in the folder of a generation{joined}"
        o.note(o.at(key), f"{places}, got {excerpt(name)}")


def _read_statistics(o: JsonObject) -> Statistics:
    return Statistics(
        split=o.text("split"),
        pixels=o.count("pixels"),
        mean=o.sequence("mean", lambda e: e.get("", float, 0.0)),
        std=o.sequence("std", lambda e: e.get("", float, 0.0)),
        scaled=o.get("scaled", bool, True) if "scaled" in o.value else True,
        sums=_read_sums(o.child("sums")) if o.value.get("sums") is not None else None,
    )


def _read_sums(o: JsonObject) -> Sums:
    # Those of floats have hundreds of bits.
    return Sums(
        total=o.sequence("total", lambda e: e.get("", int, 0)),
        squares=o.sequence("squares", lambda e: e.get("", int, 0)),
        peak=o.get("peak", int, 1),
    )


def _read_counts(o: JsonObject) -> Counts:
    kinds = ("duplicates", "leaks", "contradictions")
    later = (*kinds, *(f"near_{kind}" for kind in kinds), "suspects", "excluded", "skipped")
    return Counts(
        ignored=o.count("ignored"),
        planned=o.count("planned"),
        written=o.count("written"),
        rejected=o.count("rejected"),
        changed=_read_changed(o.child("changed")) if "changed" in o.value else {},
        **{name: o.count(name) for name in later if name in o.value},
    )


def _read_changed(o: JsonObject) -> dict[str, int]:
    return {kind: o.count(kind) for kind in o.value}


def _read_left_out(element: JsonObject) -> LeftOut:
    o = JsonObject(element.value[""], element.path, element.problems)
    return LeftOut(what=o.text("what"), why=o.text("why"), files=o.count("files"))


def _read_host(o: JsonObject) -> Host:
    return Host(images=o.count("images"), bytes=o.count("bytes"))


def _read_fingerprint(o: JsonObject) -> Fingerprint:
    codecs = o.child("codecs")
    return Fingerprint(
        inputs=o.text("inputs"),
        options=o.text("options"),
        codecs={name: codecs.text(name) for name in codecs.value},
    )


def _check_consistency(manifest: Manifest, problems: list[str]) -> None:
    """Check that values fit together: counts add up, formats and fields are complete, and sizes are possible."""
    problems += field_problems(manifest.fields)
    needed = {name: "the fields need" for name in extensions(manifest.fields)}
    needed |= {name: "the splits need" for name in _of_splits(manifest.splits)}
    problems += [f"$.requires: lacks {n!r}, which {why}" for n, why in needed.items() if n not in manifest.requires]
    problems += _generation_problems(manifest)
    if not manifest.formats:
        problems.append("$.formats: is empty")
    if problems:
        return
    if _depth(manifest.options) > _DEEPEST:
        problems.append(f"$.options: are nested more than {_DEEPEST} times")
    # A relabeled record may have fields that are in its index alone.
    least = 1 if RELABELED in manifest.requires else least_bytes(manifest.fields)
    for name, split in manifest.splits.items():
        problems += (printable(f"$.splits.{name}{problem}") for problem in _split_problems(split, manifest, least))
    if manifest.statistics is not None:
        problems += _statistics_problems(manifest.statistics)


def _split_problems(split: Split, manifest: Manifest, least: int) -> Iterator[str]:
    table = split.shards
    held = sum(table.records.tolist())  # in Python's integers, which have no bound
    gone = split.withdrawn.records if split.withdrawn is not None else 0
    if held != split.records + gone:
        less = f", of which {gone} are withdrawn" if gone else ""
        yield f".records: is {split.records}, its shards hold {held}{less}"
    if split.withdrawn is not None and split.withdrawn.path not in manifest.files:
        yield f".withdrawn.path: {split.withdrawn.path} is not in $.files"
    if len(table) and set(table.files) != set(manifest.formats):
        yield f".shards.files: has {sorted(table.files)}, the formats are {sorted(manifest.formats)}"
        return
    for columns in table.files.values():
        sizes = np.array(columns.bytes, np.int64)
        # A division, because a product could wrap around.
        wrong = (table.records > sizes // least) | (sizes > _MOST_FILE_BYTES)
        for number in np.flatnonzero(wrong).tolist():
            yield (
                f".shards: {columns.path[number]} has {table.records[number]} records in {sizes[number]} bytes: a"
                f" record has at least {least}, and a file at most {_MOST_FILE_BYTES}"
            )


def _of_splits(splits: Mapping[str, Split]) -> list[str]:
    """The extensions that a reader of some splits needs."""
    tables = [columns for split in splits.values() for columns in split.shards.files.values()]
    needed = {
        WITHDRAWN: any(split.withdrawn is not None for split in splits.values()),
        RELABELED: any(columns.replaced_index is not None for columns in tables),
        JOINED: any(path.startswith("../") for columns in tables for path in columns.path),
    }
    return [name for name, is_needed in needed.items() if is_needed]


def _generation_problems(manifest: Manifest) -> Iterator[str]:
    numbers = [generation.number for generation in manifest.generations]
    if numbers != sorted(set(numbers)) or any(not 1 <= number < 10**9 for number in numbers):
        yield "$.generations: their numbers must rise, from 1"
    for place, generation in enumerate(manifest.generations[:-1]):
        if not _SHA256.fullmatch(generation.checksum):
            yield f"$.generations[{place}].checksum: is not a SHA-256"
    if manifest.generations and manifest.generations[-1].records != manifest.records:
        yield (
            f"$.generations: the last has {manifest.generations[-1].records} records, the splits have"
            f" {manifest.records}"
        )


def _statistics_problems(statistics: Statistics) -> Iterator[str]:
    for name, values in (("mean", statistics.mean), ("std", statistics.std)):
        is_known = len(values) == len(statistics.mean) <= MOST_CHANNELS
        if not is_known or not all(map(math.isfinite, values)):
            yield f"$.statistics.{name}: must be a number for each channel"
    sums = statistics.sums
    if sums is not None:
        if not len(sums.total) == len(sums.squares) == len(statistics.mean):
            yield "$.statistics.sums: must have numbers for each channel"
        if sums.peak not in _PEAKS or any(abs(one) >= _MOST_SUM for one in (*sums.total, *sums.squares)):
            yield "$.statistics.sums: are no sums of pixels"


def _depth(value: Any) -> int:
    """How deep lists and objects of JSON are nested."""
    level, depth = [value], 0
    while level := [
        inner
        for outer in level
        if isinstance(outer, dict | list)
        for inner in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        depth += 1
    return depth
