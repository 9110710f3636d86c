"""TFRecord framing: golden bytes, damage, and whatever lengths there are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_reader.errors import CorruptionError
from shard_reader.format.checksum import crc32c, masked_crc32c
from shard_reader.format.shard_formats.tfrecord import read_records, write_record

# python -c "import tensorflow as tf
# with tf.io.TFRecordWriter('f') as w: w.write(b'foo'); w.write(b'')"
GOLDEN = bytes.fromhex("0300000000000000b099490e666f6f618abefe000000000000000029039807d8ea82a2")


def written(*payloads: bytes) -> bytes:
    file = io.BytesIO()
    for payload in payloads:
        write_record(file, payload)
    return file.getvalue()


def read(data: bytes) -> list[bytes]:
    return [payload.tobytes() for _, payload in read_records(np.frombuffer(data, np.uint8), "f")]


def test_crc32c_matches_the_rfc() -> None:
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(np.frombuffer(b"0123456789", np.uint8)[1:]) == 0xE3069283


def test_masked_crc32c_is_rotated_and_offset() -> None:
    assert masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_golden_bytes_both_ways() -> None:
    assert written(b"foo", b"").hex() == GOLDEN.hex()
    assert read(GOLDEN) == [b"foo", b""]


def test_offsets_are_those_of_the_payloads() -> None:
    assert [offset for offset, _ in read_records(np.frombuffer(GOLDEN, np.uint8), "f")] == [12, 31]


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_what_is_written_is_read(payloads: list[bytes]) -> None:
    assert read(written(*payloads)) == payloads


@pytest.mark.parametrize("position", range(len(GOLDEN)))
def test_a_flipped_bit_anywhere_is_found(position: int) -> None:
    damaged = bytearray(GOLDEN)
    damaged[position] ^= 0x10
    with pytest.raises(CorruptionError, match=r"^f: .*byte (0|19)"):
        read(bytes(damaged))


@pytest.mark.parametrize("size", [n for n in range(1, len(GOLDEN)) if n != 19])
def test_a_truncated_file_is_found(size: int) -> None:
    with pytest.raises(CorruptionError, match="ends"):
        read(GOLDEN[:size])
