"""`tf.train.Example` on the wire, both directions, without protobuf.

```
Example   { features: Features = 1 }
Features  { feature: map<string, Feature> = 1 }
Feature   { oneof: BytesList = 1 | FloatList = 2 (packed) | Int64List = 3 (packed) }
```

Sources: tensorflow/core/example/feature.proto, and protobuf.dev/programming-guides/encoding.
Features are written in the order of their names' bytes, so equal records give equal bytes. Protobuf's
serializer promises that only when it is asked to be deterministic; it then agrees with this one, unless
one name begins another (Python's protobuf puts the longer of the two first).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BYTES",
    "FLOATS",
    "INTEGERS",
    "KINDS",
    "Feature",
    "Value",
    "Values",
    "count",
    "decode",
    "encode",
    "features",
    "list_message",
    "message_fields",
    "values",
]

Value = int | float | bytes | str | NDArray[np.int64] | NDArray[np.float32] | list[str]
Values = list[slice] | list[int] | list[float]

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
BYTES, FLOATS, INTEGERS = 1, 2, 3
"""The kinds of a `Feature`: bytes_list, float_list and int64_list."""
KINDS = {"string": BYTES, "bytes": BYTES, "float32": FLOATS, "int64": INTEGERS}
"""The kind of each dtype of a field."""
_UINT64 = (1 << 64) - 1
_TAG_1, _TAG_2 = b"\x0a", b"\x12"  # fields 1 and 2, length-delimited


class Feature(NamedTuple):
    """The stored values of one feature: their kind, and the bytes of the message of their list."""

    kind: int
    span: slice


def encode(features: Mapping[str, Value]) -> bytes:
    """The bytes of an Example. A scalar is one value, an array or a list is all of its values.

    Integers become an `int64_list`, floats a `float_list`, and bytes and texts a `bytes_list`.
    """
    entries = [_entry(name.encode(), value) for name, value in features.items()]
    return _delimited(_TAG_1, b"".join(_delimited(_TAG_1, entry) for _, entry in sorted(entries)))


def features(payload: NDArray[np.uint8]) -> dict[str, Feature]:
    """The places of the values of every feature of an Example.

    Raises:
        ValueError: `payload` is not an Example.
    """
    data = payload.data
    found: dict[str, Feature] = {}
    for number, _, span in message_fields(data, 0, len(data)):
        if number == 1:
            for inner, _, entry in message_fields(data, span.start, span.stop):
                if inner == 1:
                    name, feature = _decode_entry(data, entry)
                    found[name] = feature
    return found


def values(payload: NDArray[np.uint8], feature: Feature) -> Values:
    """The values of a feature: integers, floats, or for bytes their slices of `payload`.

    Raises:
        ValueError: the message is damaged.
    """
    data = payload.data
    spans = [v for n, _, v in message_fields(data, feature.span.start, feature.span.stop) if n == 1]
    if feature.kind == BYTES:
        return spans
    # A packed run and a single value differ in the wire type alone, so both are read as runs.
    if feature.kind == FLOATS:
        return [x for v in spans for x in np.frombuffer(data[v], "<f4").tolist()]
    return [x for v in spans for x in _varints(data, v)]


def count(payload: NDArray[np.uint8], feature: Feature) -> int:
    """The number of values of a feature, which takes no memory.

    Raises:
        ValueError: the message is damaged.
    """
    spans = [v for n, _, v in message_fields(payload.data, feature.span.start, feature.span.stop) if n == 1]
    if feature.kind == BYTES:
        return len(spans)
    if feature.kind == FLOATS:
        return int(sum(v.stop - v.start for v in spans)) // 4
    return sum(int(np.count_nonzero(payload[v] < 0x80)) for v in spans)  # each varint ends with such a byte


def decode(payload: NDArray[np.uint8]) -> dict[str, Values]:
    """Every feature of an Example with its `values`.

    Raises:
        ValueError: `payload` is not an Example.
    """
    return {name: values(payload, feature) for name, feature in features(payload).items()}


def _entry(name: bytes, value: Value) -> tuple[bytes, bytes]:
    return name, _delimited(_TAG_1, name) + _delimited(_TAG_2, _feature(value))


def list_message(value: Value) -> tuple[bytes, bytes]:
    """The tag of a list in a Feature, and the bytes of the list's message: those of an extent of an index.

    Raises:
        ValueError: the value is of another type.
    """
    if isinstance(value, (bytes, str)):
        value = [value]  # type: ignore[list-item]  # bytes are written as they are
    if isinstance(value, list):
        raw = (text.encode() if isinstance(text, str) else text for text in value)
        return b"\x0a", b"".join(_delimited(_TAG_1, text) for text in raw)
    array: NDArray[Any] = np.atleast_1d(np.asarray(value))
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{value!r} is neither whole numbers of 64 bits nor floats")
    if array.dtype.kind == "f":
        tag, packed = b"\x12", array.astype("<f4").tobytes()
    else:
        tag, packed = b"\x1a", b"".join(_varint(number & _UINT64) for number in array.ravel().tolist())
    return tag, _delimited(_TAG_1, packed) if packed else b""


def _feature(value: Value) -> bytes:
    return _delimited(*list_message(value))


def _delimited(tag: bytes, body: bytes) -> bytes:
    return b"".join((tag, _varint(len(body)), body))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    value = 0
    # At most 10 bytes, as in protobuf's own parser: damaged bytes could otherwise go on to the end of the file.
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError(f"the message ends inside a varint at byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _UINT64, position
    raise ValueError(f"a varint longer than 10 bytes before byte {position}")


def message_fields(data: memoryview, position: int, end: int) -> Iterator[tuple[int, int, slice]]:
    """Each field of a message: its number, its wire type, and the slice of its value (of a varint: its own bytes).

    Raises:
        ValueError: the bytes are not a message.
    """
    while position < end:
        tag, position = _read_varint(data, position, end)
        wire = tag & 7
        start = position
        if wire == _VARINT:
            _, position = _read_varint(data, position, end)
        elif wire == _DELIMITED:
            length, start = _read_varint(data, position, end)
            position = start + length
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {start}: not a tf.train.Example")
        if position > end:
            raise ValueError(f"the field at byte {start} ends {position - end} bytes past its message")
        yield tag >> 3, wire, slice(start, position)


def _decode_entry(data: memoryview, entry: slice) -> tuple[str, Feature]:
    name, feature = "", Feature(BYTES, slice(entry.stop, entry.stop))
    for number, _, span in message_fields(data, entry.start, entry.stop):
        if number == 1:
            name = str(data[span], "utf-8")
        elif number == 2:
            for kind, _, values in message_fields(data, span.start, span.stop):
                if kind in (BYTES, FLOATS, INTEGERS):
                    feature = Feature(kind, values)
    return name, feature


def _varints(data: memoryview, span: slice) -> Iterator[int]:
    position = span.start
    while position < span.stop:
        value, position = _read_varint(data, position, span.stop)
        # An int64 is stored as the two's complement in 64 unsigned bits.
        yield value - (1 << 64) if value >> 63 else value
