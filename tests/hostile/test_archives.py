"""Archives whose headers lie: one line that names the file and the member, or one reject."""

from __future__ import annotations

import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from support.images import write_image
from support.limits import limited_command


@pytest.fixture
def photo(tmp_path: Path) -> bytes:
    write_image(tmp_path / "photo.png")
    return (tmp_path / "photo.png").read_bytes()


def tar_header(name: str, size: int, kind: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def plain_tar(photo: bytes, *more: bytes) -> bytes:
    member = tar_header("good.png", len(photo)) + photo.ljust(-(-len(photo) // 512) * 512, b"\0")
    return member + b"".join(more) + bytes(1024)


TARS = {
    "a-member-of-2-to-the-62-bytes": (tar_header("x.png", 2**62), "was cut off at byte [0-9,]+, in the member x.png"),
    "a-long-name-of-gigabytes": (tar_header("x", 2**40, b"L"), "a header before byte [0-9,]+ says that it has [0-9,]+"),
    "attributes-of-gigabytes": (tar_header("x", 2**40, b"x"), "a header before byte [0-9,]+ says that it has [0-9,]+"),
    "a-negative-size": (tar_header("x.png", -1), "is damaged|was cut off|says that it has"),
    "attributes-in-attributes": (tar_header("x", 0, b"x") * 100_000, "is damaged"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TARS)
def test_headers_of_a_tar_that_lie(name: str, photo: bytes, tmp_path: Path) -> None:
    more, message = TARS[name]
    (tmp_path / "in.tar").write_bytes(plain_tar(photo, more))
    result = limited_command("prepare", tmp_path / "in.tar", tmp_path / "out")
    assert result.returncode == 2, result.stderr
    assert re.search(f"error: INPUT {tmp_path}/in.tar: .*({message})", result.stderr), result.stderr


def zipped(*members: tuple[str, bytes, int, dict[str, int]]) -> bytes:
    """A zip whose list of members says something else than the members are: some bytes, many times."""
    data, central = b"", b""
    for name, body, times, said in members:
        packed = zlib.compressobj(1, zlib.DEFLATED, -15)
        stored = b"".join(packed.compress(body) for _ in range(times)) + packed.flush()
        values = {
            "method": 8,
            "crc": zlib.crc32(body),
            "packed": len(stored),
            "size": len(body) * times,
            "extra": 0,
        } | said
        extra = {0: b"", 1: struct.pack("<HH", 1, 16) + b"\xff" * 3, 2: struct.pack("<HHQQ", 1, 16, 2**62, 2**62)}
        sizes = (values["crc"], values["packed"], values["size"])
        central += struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, values["method"], 0, 0, *sizes, len(name),
            len(extra[values["extra"]]), 0, 0, 0, 0, len(data)) + name.encode() + extra[values["extra"]]  # fmt: skip
        data += struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, 0, 0, len(name), 0) + name.encode() + stored
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(members), len(members), len(central), len(data), 0)
    return data + central + end


@pytest.mark.slow
def test_members_of_a_zip_that_lie_are_rejects(photo: bytes, tmp_path: Path) -> None:
    megabyte = bytes(1 << 20)
    members = (
        ("good.png", photo, 1, {}),
        ("packed-in-all-of-it.png", b"x", 1, {"packed": 100_000}),
        ("bomb.png", megabyte, 1500, {}),
        ("longer-than-it-says.png", megabyte, 1500, {"size": 1000}),
        ("of-2-to-the-62-bytes.png", b"x", 1, {"size": 0xFFFFFFFF, "extra": 2}),
        ("cut-extra.png", b"x", 1, {"size": 0xFFFFFFFF, "extra": 1}),
    )
    (tmp_path / "in.zip").write_bytes(zipped(*members))
    result = limited_command("prepare", tmp_path / "in.zip", tmp_path / "out", "--max-rejects", 5, "--workers", 1)
    assert result.returncode == 0, result.stderr
    lines = map(json.loads, (tmp_path / "out/rejects.jsonl").read_text().splitlines())
    assert {line["id"]: line["reason"] for line in lines} == {
        "bomb.png": "too-large",
        "longer-than-it-says.png": "damaged",
        "packed-in-all-of-it.png": "damaged",
        "of-2-to-the-62-bytes.png": "too-large",
        "cut-extra.png": "too-large",
    }


def test_json_beside_an_image_that_nests_for_ever(photo: bytes, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (("deep", '{"a": ' + "[" * 900 + "]" * 900 + "}"), ("deeper", "[" * 10**6), ("good", "{}")):
            archive.writestr(f"{name}.png", photo)
            archive.writestr(f"{name}.json", text)
    (tmp_path / "in.zip").write_bytes(buffer.getvalue())
    result = limited_command("prepare", tmp_path / "in.zip", tmp_path / "out", "--max-rejects", 2)
    assert result.returncode == 0, result.stderr
    assert "rejected   2 (2 bad-json)" in result.stdout
    assert "its .json nests lists and objects too deeply" in result.stdout
