"""Thumbnails: which images get one, what they show, and that their choice depends on nothing but the inputs."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command import prepared
from support.images import write_image

from beam_jobs.cli.prepare import parse
from beam_jobs.options import ImageOptions
from beam_jobs.shards.thumbnails import MOST_THUMBNAILS, Thumbnails, chosen, id_key, share_of


def options() -> ImageOptions:
    return parse(["prepare", "in", "out"]).image


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "thumbnails.jsonl").read_text().splitlines()]


def image(text: str) -> Image.Image:
    opened = Image.open(io.BytesIO(base64.b64decode(text)))
    opened.load()
    assert opened.format == "JPEG"
    return opened


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 images, some damaged, some turned, and two that are no images."""
    folder = tmp_path_factory.mktemp("messy")
    for number in range(80):
        write_image(folder / f"{number:02d}.png", number, (400, 200))
    for number in range(6):
        path = folder / f"{number:02d}.png"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(3):
        path = folder / f"turned-{number}.jpg"
        write_image(path, number, (400, 200))
        Image.open(path).save(path, exif=exif)
    (folder / "text.png").write_text("no image")
    (folder / "empty.jpg").write_bytes(b"")
    return folder


def test_rejects_and_changes_have_thumbnails(messy: Path, tmp_path: Path) -> None:
    out = prepared(messy, tmp_path / "out", "--size", "40x40", "--max-rejects", 10)
    found = lines(out)
    assert Counter((line["group"], line["reason"]) for line in found) == {
        ("reject", "damaged"): 6,
        ("change", "orientation"): 3,
        ("usual", ""): 16,
    }
    for line in found:
        before = image(line["before"])
        assert max(before.size) == 160
        if line["group"] == "reject":
            assert line["after"] is None and line["split"] is None
            rows = np.asarray(before.convert("L")).max(1)
            assert rows[:20].max() > 0  # pixels before the damage are there
        else:
            assert image(line["after"]).size == (40, 40) and line["split"] == "train"
        if line["reason"] == "orientation":
            assert before.height > before.width


def test_the_number_of_workers_and_shards_plays_no_part(messy: Path, tmp_path: Path) -> None:
    one, two, many = (
        lines(prepared(messy, tmp_path / name, "--size", 16, "--max-rejects", 10, *more))
        for name, more in (("1", ("--workers", 1)), ("2", ("--workers", 2)), ("3", ("--shards", 5)))
    )
    assert one == two

    def bad(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [line for line in found if line["group"] == "reject"]

    assert bad(one) == bad(many)
    usual = [line["id"] for line in many if line["group"] == "usual"]
    assert usual[:16] == [line["id"] for line in one if line["group"] == "usual"]


def test_there_are_at_most_64_of_each_and_all_kinds_have_some() -> None:
    shards = [Thumbnails(1 << 64, "train") for _ in range(4)]
    pixels = np.zeros((4, 4, 3), np.uint8)
    for number in range(5000):
        shards[number % 4].offer(
            f"{number}.jpg", ["profile"] if number % 50 else ["depth", "profile"], "", pixels, pixels
        )
        if number % 100 == 0:
            shards[number % 4].offer(f"s{number}.jpg", [], f"complaint {number}", pixels, pixels)
    found = chosen(pair for shard in shards for pair in shard.kept())
    kinds = Counter((one.group, "" if one.group == "suspect" else one.reason) for one in found)
    assert kinds["suspect", ""] == 50 and kinds["change", "depth"] == 24 and kinds["usual", ""] == 16
    assert kinds.total() - kinds["suspect", ""] == MOST_THUMBNAILS


def test_of_many_rejects_those_with_the_lowest_keys_are_shown() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    kept = Thumbnails(share_of(100), "train")
    for number in range(100):
        kept.offer_reject(f"{number}.png", "bad-box", buffer.getvalue(), options())
    lowest = sorted((f"{number}.png" for number in range(100)), key=id_key)[:64]
    assert [one.id for one in chosen(kept.kept())] == lowest


@pytest.mark.parametrize("share", [0, 1])
def test_a_rare_reject_of_many_inputs_has_a_thumbnail(share: int) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    kept = Thumbnails(share, "train")
    kept.offer_reject("1.png", "bad-box", buffer.getvalue(), options())
    kept.offer("2.png", ["profile"], "", np.zeros((2, 2, 1), np.uint8), np.zeros((2, 2, 1), np.uint8))
    assert [one.id for one in chosen(kept.kept())] == ["1.png"]


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((1, 1, 1), 9, np.uint8),
        np.full((3000, 1, 3), 9, np.uint8),
        np.full((2, 700, 4), 9, np.uint8),
        np.full((50, 60, 3), 999, np.uint16),
        np.full((50, 60, 4), 65_535, np.uint16),
    ],
)
def test_pixels_of_every_kind_have_thumbnails(pixels: Any) -> None:
    kept = Thumbnails(1 << 64, "train")
    kept.offer("a", ["depth"], "", pixels, pixels)
    ((_, found),) = kept.kept()
    assert found.before is not None and max(image(found.before).size) <= 160


def test_inputs_that_no_decoder_should_see_have_none() -> None:
    kept = Thumbnails(1 << 64, "train")
    bomb = io.BytesIO()
    Image.new("L", (3000, 3000)).save(bomb, "PNG")
    small = parse(["prepare", "in", "out", "--max-pixels", "1000000"]).image
    for number, data in enumerate((bomb.getvalue(), b"", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n" * 9, b"x" * 99)):
        kept.offer_reject(str(number), "damaged", data, small)
    assert kept.kept() == []
