"""Reports in Chromium: all pictures load, nothing is asked for, they fit a phone, and everybody can read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import Browser, checked, chromium, opened
from support.command import command, prepared
from support.images import write_image

MOST_BYTES = 5_000_000
HOSTILE_NAMES = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "</style><style>body{display:none}",
    "' onmouseover='alert(3)",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe",
    "\x1b[2Jcleared",
    "javascript:alert(4)",
    "&lt;b&gt;&#x202e;",
    "a" * 180,
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def report_of(dataset: Path) -> Path:
    path = dataset.parent / "report.html"
    result = command("report", dataset, "--output", path)
    assert (result.returncode, result.stderr) == (0, "")
    assert path.stat().st_size < MOST_BYTES
    return path


@pytest.fixture(scope="module")
def messy_report(messy_shards: Path) -> Path:
    return report_of(messy_shards)


@pytest.mark.nightly
def test_photos(photos: Path, tmp_path: Path, browser: Browser) -> None:
    page = checked(browser, report_of(prepared(photos, tmp_path / "shards", "--split", "train=0.8,val=0.2")))
    assert page.locator("#gallery img").count() == 300


@pytest.mark.slow
@pytest.mark.nightly
def test_cifar10(cifar10: Path, tmp_path: Path, browser: Browser) -> None:
    page = checked(browser, report_of(prepared(cifar10, tmp_path / "shards", "--size", 32, "--encoding", "png")))
    assert page.locator("#gallery .group").count() == 10
    assert page.locator("#gallery .group").first.locator("img").count() == 12
    assert page.locator("#gallery img").first.get_attribute("width") == "32"


def coco(folder: Path) -> Path:
    """Twelve pictures with a box of each of two classes, and a third class without a box."""
    for number in range(12):
        write_image(folder / "val" / f"{number}.jpg", number, (80, 40))
    boxes = [
        {
            "id": 2 * image + kind,
            "image_id": image,
            "category_id": kind,
            "bbox": [8, 4, 40, 20],
            "area": 1,
            "iscrowd": 0,
        }
        for image in range(12)
        for kind in range(2)
    ]
    instances = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 80, "height": 40} for n in range(12)],
        "annotations": boxes,
        "categories": [{"id": n, "name": name} for n, name in enumerate(["person", "traffic light", "kite"])],
    }
    (folder / "instances_val.json").write_text(json.dumps(instances))
    return folder / "instances_val.json"


@pytest.mark.slow
def test_boxes_lie_where_they_are_in_the_image(tmp_path: Path, browser: Browser) -> None:
    shards = prepared(coco(tmp_path), tmp_path / "shards", "--root", tmp_path / "val", "--fit", "none")
    page = checked(browser, report_of(shards))
    assert page.locator("#gallery rect").count() == 2 * 12 + 2 * 12  # in pictures, and in the keys of their colours
    image, box = (page.locator(f"#gallery .frame {kind}").first.bounding_box() for kind in ("img", "rect"))
    # The picture of 80 x 40 pixels lies in the middle of a square, as wide as that.
    scale, top = image["width"] / 80, image["y"] + image["height"] / 4
    assert box["x"] == pytest.approx(image["x"] + 8 * scale, abs=2.5)
    assert box["y"] == pytest.approx(top + 4 * scale, abs=2.5)
    assert box["width"] == pytest.approx(40 * scale, abs=4)
    assert page.locator("#gallery img").first.get_attribute("alt").endswith(", person, traffic light, 2 boxes")
    assert "1 class without an object kite." in " ".join(page.locator("#first").inner_text().split())


@pytest.mark.slow
def test_hostile_names_are_text(tmp_path: Path, browser: Browser) -> None:
    lines = []
    for number, name in enumerate(HOSTILE_NAMES):
        for picture in range(3):
            file = f"{number}-{picture}.png"
            write_image(tmp_path / file, 10 * number + picture)
            lines.append({"path": file, "label": name, "id": f"{picture}{name}"})
    (tmp_path / "bad.jpg").write_bytes(b"?")
    lines.append({"path": "bad.jpg", "label": "<b>", "id": "bad <b>\u202e"})
    table = tmp_path / "table.jsonl"
    table.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    options = ["--id-column", "id", "--max-rejects", "1.0", "--split", "a=0.5,b=0.5"]
    path = report_of(prepared(table, tmp_path / "shards", *options))
    page = checked(browser, path)
    assert page.locator("#gallery h3", has_text="<script>alert(1)</script>").count() == 1
    assert page.locator("#gallery img").count() == 30
    assert page.locator("img[src=x], script:not(body > script)").count() == 0
    text = path.read_text("utf-8")
    assert not [character for character in "\u202e\x1b" if character in text]
    assert "{{ 7 * 7 }}{% raw %}" in page.locator("#classes").inner_text()


def test_a_messy_folder(messy_report: Path, browser: Browser) -> None:
    page = checked(browser, messy_report)
    assert page.locator("#first > ol > li.problem").count() >= 4
    assert page.locator("#rejects img").get_attribute("alt") == "train/cat/cut-off.jpg"


def test_the_filter_shows_a_class_or_a_split(messy_report: Path, browser: Browser) -> None:
    page = opened(browser, messy_report)
    shown = page.locator("#gallery figure:visible")
    every = shown.count()
    page.locator("select[name=group]").select_option(label="dog")
    assert page.locator("#gallery h3:visible").all_inner_texts() == ["dog"]
    assert 0 < shown.count() < every
    page.locator("select[name=group]").select_option(label="all")
    page.locator("select[name=split]").select_option(label="val")
    assert 0 < shown.count() < every
    assert set(shown.evaluate_all("all => all.map(one => one.dataset.split)")) == {"val"}
    assert page.locator("#gallery output").inner_text() == f"{shown.count()} pictures"


def test_all_can_be_read_without_javascript(messy_report: Path, browser: Browser) -> None:
    page = opened(browser, messy_report, script=False)
    assert page.locator("#filter").is_hidden()
    assert page.locator("#gallery figure:visible").count() == page.locator("#gallery figure").count() > 20


def test_a_keyboard_reaches_the_findings(messy_report: Path, browser: Browser) -> None:
    page = opened(browser, messy_report)
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the findings"
    page.keyboard.press("Enter")
    assert page.url.endswith("#first")
