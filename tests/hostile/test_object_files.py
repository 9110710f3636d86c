"""Datasets of objects that strangers crafted: each ends in a line, without programs, other files, or much memory."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from support.images import write_image
from support.limits import limited_command

LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
XML = {
    "entities": f'<!DOCTYPE a [<!ENTITY a0 "ha">{LAUGHS}]><annotation><filename>&a11;</filename></annotation>',
    "another file": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation><object>&x;</object></annotation>',
    "depth": "<a>" * 200_000,
    "objects": "<annotation>" + "<object><name>a</name></object>" * 30_000,
}
YAML = {
    "aliases": "train: images\nnames: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "depth": "train: images\nnames: " + "[" * 300_000,
    "object": "train: images\nnames: !!python/object/apply:os.system ['touch owned']\n",
    "another folder": "path: /etc\ntrain: .\nnames: [a]\n",
    "download": "download: touch owned\ntrain: images\nnames: [a]\n",
}


@pytest.mark.parametrize("name", XML)
def test_an_xml_file_is_a_reject(tmp_path: Path, name: str) -> None:
    for number in range(2):
        write_image(tmp_path / f"in/JPEGImages/{number}.jpg", number)
    (tmp_path / "in/Annotations").mkdir()
    (tmp_path / "in/Annotations/0.xml").write_text(XML[name])
    good = "<annotation><size><width>20</width><height>16</height></size></annotation>"
    (tmp_path / "in/Annotations/1.xml").write_text(good)
    words = ("--size", 8, "--source", "voc", "--max-rejects", 1, "--workers", 1, "--dry-run")
    result = limited_command("prepare", tmp_path / "in", tmp_path / "out", *words)
    assert result.returncode == 0, result.stderr
    assert "rejected   1 by the listing" in result.stdout


@pytest.mark.parametrize("name", YAML)
def test_a_description_runs_nothing_and_grows_not(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "in/images/1.jpg")
    (tmp_path / "in/data.yaml").write_text(YAML[name])
    words = ("--size", 8, "--source", "yolo", "--workers", 1, "--dry-run", "--below", tmp_path / "in")
    result = limited_command("prepare", tmp_path / "in", tmp_path / "out", *words)
    assert not list(tmp_path.rglob("owned"))
    if name == "download":
        assert result.returncode == 0 and "1 image" in result.stdout, result.stderr
    else:
        assert result.returncode in (0, 1, 2) and "hostname" not in result.stdout + result.stderr
        assert name != "another folder" or result.returncode
        assert len(result.stderr.splitlines()) <= 4


OUTLINES = {
    "points": ("[[" + "1.5," * 1_999_999 + "1.5]]", "bad-segment"),
    "NaN": ("[[NaN, 1, 2, 3, 4, 5]]", "bad-segment"),
    "far away": ("[[0, 0, 1e300, 0, 1e300, 1e300]]", "bad-segment"),
    "sums": ('{"size": [16, 20], "counts": [7]}', "bad-segment"),
    "text": ('{"size": [16, 20], "counts": "' + "o" * 100_000 + '"}', "bad-segment"),
    "size": ('{"size": [1000000, 1000000], "counts": [1000000000000]}', "bad-segment"),
}


@pytest.mark.slow
def test_outlines_are_rejects(tmp_path: Path) -> None:
    images, annotations = [], []
    for number, (outline, _) in enumerate([*OUTLINES.values(), ("[[1, 1, 9, 1, 9, 9]]", "")]):
        write_image(tmp_path / f"{number}.jpg", number, size=(20, 16))
        images.append(f'{{"id": {number}, "file_name": "{number}.jpg"}}')
        one = f'"id": {number}, "image_id": {number}, "category_id": 1, "bbox": [1, 1, 8, 8]'
        annotations.append(f'{{{one}, "segmentation": {outline}}}')
    lists = f'"images": [{",".join(images)}], "annotations": [{",".join(annotations)}]'
    (tmp_path / "i.json").write_text(f'{{{lists}, "categories": [{{"id": 1, "name": "cat"}}]}}')
    words = ("--size", 8, "--segments", "mask", "--max-rejects", 10, "--workers", 1)
    result = limited_command("prepare", tmp_path / "i.json", tmp_path / "out", *words)
    assert result.returncode == 0, result.stderr
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    found = {reject["id"]: reject["reason"] for reject in rejects}
    assert found == {f"{number}.jpg": reason for number, (_, reason) in enumerate(OUTLINES.values())}
    assert all(len(reject["message"]) < 300 for reject in rejects)


@pytest.mark.slow
def test_a_panoptic_mask_that_claims_billions_of_pixels_is_a_reject(tmp_path: Path) -> None:
    for number in range(2):
        write_image(tmp_path / f"{number}.jpg", number, size=(20, 16))
    (tmp_path / "p").mkdir()
    Image.new("RGB", (20, 16), (1, 0, 0)).save(tmp_path / "p/1.png")
    file = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(file, "PNG")
    (tmp_path / "p/0.png").write_bytes(file.getvalue())
    segment = {"id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}
    whole = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(2)],
        "annotations": [{"image_id": n, "file_name": f"{n}.png", "segments_info": [segment]} for n in range(2)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "p.json").write_text(json.dumps(whole))
    words = ("--size", 8, "--segments", "mask", "--max-rejects", 1, "--workers", 1)
    result = limited_command("prepare", tmp_path / "p.json", tmp_path / "out", *words)
    assert result.returncode == 0, result.stderr
    (line,) = (tmp_path / "out/rejects.jsonl").read_text().splitlines()
    assert "is 9000x9000, more than 67,108,864 pixels" in json.loads(line)["message"]
