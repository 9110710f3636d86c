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

import numpy as np
from numpy.typing import NDArray

__all__ = ["Value", "Values", "decode", "encode"]

Value = int | bytes | str
Values = list[slice] | list[int] | list[float]

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_UINT64 = (1 << 64) - 1
_TAG_1, _TAG_2 = b"\x0a", b"\x12"  # fields 1 and 2, length-delimited


def encode(features: Mapping[str, Value]) -> bytes:
    """The bytes of an Example with one value for each feature: `int64_list` or `bytes_list`."""
    entries = [_entry(name.encode(), value) for name, value in features.items()]
    return _delimited(_TAG_1, b"".join(_delimited(_TAG_1, entry) for _, entry in sorted(entries)))


def decode(payload: NDArray[np.uint8]) -> dict[str, Values]:
    """Every feature of an Example: integers, floats, or for bytes the slices of `payload` they take.

    Raises:
        ValueError: `payload` is not an Example.
    """
    data = payload.data
    features: dict[str, Values] = {}
    for number, _, span in _fields(data, 0, len(data)):
        if number == 1:
            for inner, _, entry in _fields(data, span.start, span.stop):
                if inner == 1:
                    name, values = _decode_entry(data, entry)
                    features[name] = values
    return features


def _entry(name: bytes, value: Value) -> tuple[bytes, bytes]:
    if isinstance(value, int):
        feature = _delimited(b"\x1a", _delimited(_TAG_1, _varint(value & _UINT64)))
    else:
        raw = value.encode() if isinstance(value, str) else value
        feature = _delimited(_TAG_1, _delimited(_TAG_1, raw))
    return name, _delimited(_TAG_1, name) + _delimited(_TAG_2, feature)


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
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError(f"the message ends inside a varint at byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _UINT64, position
    raise ValueError(f"a varint longer than 10 bytes before byte {position}")


def _fields(data: memoryview, position: int, end: int) -> Iterator[tuple[int, int, slice]]:
    """Each field's number, wire type, and the slice its value takes (varints: their own bytes)."""
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


def _decode_entry(data: memoryview, entry: slice) -> tuple[str, Values]:
    name = ""
    values: Values = list[slice]()
    for number, _, span in _fields(data, entry.start, entry.stop):
        if number == 1:
            name = str(data[span], "utf-8")
        elif number == 2:
            values = _decode_feature(data, span)
    return name, values


def _decode_feature(data: memoryview, feature: slice) -> Values:
    for kind, _, span in _fields(data, feature.start, feature.stop):
        if kind not in (_BYTES_LIST, _FLOAT_LIST, _INT64_LIST):
            continue
        values = [v for n, _, v in _fields(data, span.start, span.stop) if n == 1]
        if kind == _BYTES_LIST:
            return values
        if kind == _FLOAT_LIST:  # packed or not, the bytes of a run are the same
            return [x for v in values for x in np.frombuffer(data[v], "<f4").tolist()]
        return [x for v in values for x in _varints(data, v)]
    return list[slice]()


def _varints(data: memoryview, span: slice) -> Iterator[int]:
    position = span.start
    while position < span.stop:
        value, position = _read_varint(data, position, span.stop)
        yield value - (1 << 64) if value >> 63 else value
