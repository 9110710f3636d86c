"""tf.train.Example: golden bytes, protobuf's own serializer, and bytes that are no Example."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shard_reader.format.shard_formats import example

# tf.train.Example(features=tf.train.Features(feature={
#     "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[-1])),
#     "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"])),
# })).SerializeToString(deterministic=True)
GOLDEN = bytes.fromhex("0a260a0b0a02696412050a030a01780a170a056c6162656c120e1a0c0a0affffffffffffffffff01")

integers = st.integers(-(2**63), 2**63 - 1)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def decoded(data: bytes) -> dict[str, list[object]]:
    """Every feature with its values; bytes as bytes, and not as slices."""
    features = example.decode(np.frombuffer(data, np.uint8))
    return {k: [data[v] if isinstance(v, slice) else v for v in values] for k, values in features.items()}


def test_golden_bytes_both_ways() -> None:
    assert example.encode({"label": -1, "id": "x"}).hex() == GOLDEN.hex()
    assert decoded(GOLDEN) == {"id": [b"x"], "label": [-1]}


def test_the_order_of_the_features_does_not_matter() -> None:
    assert example.encode({"a": 1, "b": b"2"}) == example.encode({"b": b"2", "a": 1})


@given(st.dictionaries(names, integers | st.binary(max_size=200), max_size=5))
def test_what_is_encoded_is_decoded(record: dict[str, int | bytes]) -> None:
    assert decoded(example.encode(record)) == {name: [value] for name, value in record.items()}


@given(st.dictionaries(names, integers | st.binary(max_size=200), min_size=1, max_size=5))
def test_protobuf_writes_the_same_bytes(record: dict[str, int | bytes]) -> None:
    tf = pytest.importorskip("tensorflow")
    assume(not any(a != b and b.startswith(a) for a in record for b in record))  # see the module's docstring
    message = tf.train.Example()
    for name, value in record.items():
        feature = message.features.feature[name]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.bytes_list.value.append(value)
    assert example.encode(record) == message.SerializeToString(deterministic=True)


@given(
    st.dictionaries(
        names,
        st.lists(integers, min_size=1)
        | st.lists(st.binary(), min_size=1)
        | st.lists(st.floats(width=32, allow_nan=False), min_size=1),
        max_size=5,
    )
)
def test_what_tensorflow_writes_is_decoded(record: dict[str, list[object]]) -> None:
    tf = pytest.importorskip("tensorflow")
    message = tf.train.Example()
    for name, values in record.items():
        kinds = {int: "int64_list", float: "float_list", bytes: "bytes_list"}
        getattr(message.features.feature[name], kinds[type(values[0])]).value.extend(values)
    assert decoded(message.SerializeToString()) == record


def test_unpacked_integers_and_unknown_fields_are_read() -> None:
    # int64_list { value: 1 value: 2 }, each with a tag of its own, after an unknown field 15 of the Feature
    feature = bytes.fromhex("7a01781a0408010802")
    entry = b"\x0a\x01n\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    assert decoded(b"\x0a" + bytes([len(features)]) + features) == {"n": [1, 2]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"\x0a", "ends inside a varint", id="no-length"),
        pytest.param(b"\x0a\x05abc", "past its message", id="too-short"),
        pytest.param(b"\x0b", "wire type 3", id="group"),
        pytest.param(b"\xff" * 11, "longer than 10 bytes", id="endless-varint"),
    ],
)
def test_other_bytes_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        example.decode(np.frombuffer(data, np.uint8))


@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):  # a crash, or an endless loop, is what is looked for
        example.decode(np.frombuffer(data, np.uint8))
