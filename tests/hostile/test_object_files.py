"""Datasets of objects that strangers crafted: each ends in a line, without programs, other files, or much memory."""

from __future__ import annotations

from pathlib import Path

import pytest
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
