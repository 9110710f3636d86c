"""Images that would keep a decoder busy, or fill the memory: rejects, before anything is decoded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from support.hostile_images import LONG_ANIMATIONS, TOO_MUCH_WORK, progressive
from support.images import write_image
from support.limits import limited_command


def rejects(output: Path) -> dict[str, str]:
    """The reason of each reject."""
    lines = map(json.loads, (output / "rejects.jsonl").read_text().splitlines())
    return {line["id"]: line["reason"] for line in lines}


@pytest.mark.slow
def test_files_of_too_many_parts_are_rejects(tmp_path: Path) -> None:
    write_image(tmp_path / "in/photo.png")
    for name, data in (TOO_MUCH_WORK | LONG_ANIMATIONS).items():
        (tmp_path / "in" / name).write_bytes(data)
    words = ("--max-work", 100_000_000, "--max-rejects", "1.0", "--workers", 1)
    result = limited_command("prepare", tmp_path / "in", tmp_path / "out", *words)
    assert result.returncode == 0, result.stderr
    assert rejects(tmp_path / "out") == dict.fromkeys(TOO_MUCH_WORK, "too-much-work")
    assert "3 images" in result.stdout


@pytest.mark.slow
def test_files_of_too_many_parts_are_no_masks_either(tmp_path: Path) -> None:
    for number, (name, data) in enumerate(TOO_MUCH_WORK.items()):
        write_image(tmp_path / f"in/images/{number}.png", number)
        path = tmp_path / f"in/masks/{number}{Path(name).suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    write_image(tmp_path / "in/images/good.png")
    Image.new("L", (20, 16), 1).save(tmp_path / "in/masks/good.png")
    words = ("--max-work", 100_000_000, "--max-rejects", "1.0", "--workers", 1)
    result = limited_command("prepare", tmp_path / "in", tmp_path / "out", *words)
    assert result.returncode == 0, result.stderr
    assert set(rejects(tmp_path / "out").values()) == {"too-much-work"}
    assert "out: 1 image in " in result.stdout


def test_three_thousand_scans_by_default(tmp_path: Path) -> None:
    """1.4 MB that a decoder takes ten minutes for: in the sample of a dry run, in the pass for duplicates, and here."""
    write_image(tmp_path / "in/photo.png")
    (tmp_path / "in/scans.jpg").write_bytes(progressive(5000, 3000))
    for more in (["--dry-run"], ["--drop-duplicates", "--max-rejects", "1"]):
        result = limited_command("prepare", tmp_path / "in", tmp_path / "out", *more)
        assert result.returncode == 0, result.stderr
        assert "too-much-work: 5000x5000 pixels in " in result.stdout
        assert " of 3,010 scans: decoding goes over 4," in result.stdout
        assert "more than --max-work 4,000,000,000; save it again, or allow more" in result.stdout


@pytest.mark.slow
def test_an_image_that_the_clock_ends_is_named_with_the_remedy(tmp_path: Path) -> None:
    write_image(tmp_path / "in/photo.png")
    (tmp_path / "in/slow.jpg").write_bytes(progressive(5000, 1500))
    slow = ("prepare", tmp_path / "in", tmp_path / "out", "--max-work", 10**12, "--max-seconds", 1)
    result = limited_command(*slow)
    assert result.returncode == 1
    assert "error: slow.jpg: is not decoded after --max-seconds 1; leave it out with --exclude FILE" in result.stderr
    (tmp_path / "ids").write_text("slow.jpg\n")
    result = limited_command(*slow, "--exclude", tmp_path / "ids")
    assert result.returncode == 0, result.stderr
    assert "excluded   1" in result.stdout
