"""Pascal VOC: its layouts, how it counts pixels, and files that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.sources import Found

from beam_jobs.errors import UsageError
from beam_jobs.plan.schema.catalog import Catalog
from beam_jobs.sources import Problem
from beam_jobs.sources.detection.voc import Voc
from beam_jobs.sources.files.interface import SourceOptions


def thing(name: str = "cat", box: tuple[object, ...] = (1, 2, 10, 20), more: str = "") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=False)
    inside = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{more}<bndbox>{inside}</bndbox></object>"


def xml(*things: str, size: str = "<size><width>40</width><height>30</height><depth>3</depth></size>") -> str:
    return f'<?xml version="1.0"?>\n<annotation verified="yes">\n<folder>f</folder>{size}\n' + "\n".join(
        [*things, "</annotation>"]
    )


FILES: dict[str, str] = {
    "JPEGImages/1.jpg": "one",
    "Annotations/1.xml": xml(
        thing(),
        thing("dog", (5, 5, 5, 9.5), "<pose>Left</pose><truncated>1</truncated><difficult>0</difficult>"
              "<occluded>1</occluded><part><name>head</name><bndbox><xmin>3</xmin></bndbox></part>"),
    ),
    "JPEGImages/2.jpg": "two",
    "Annotations/2.xml": xml(),
}  # fmt: skip


def made(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def found(place: Path | str, **options: Any) -> Found:
    return Found(Voc(SourceOptions(input=str(place), kind="voc", **options)))


def splits(source: Found) -> dict[str, str | None]:
    return {id: entry.split for id, entry in source.entries.items()}


def test_images_with_their_objects(tmp_path: Path) -> None:
    source = found(made(tmp_path, FILES))
    assert source.text == "Pascal VOC of 2 images with 2 objects, 1 image without objects"
    entry = source.entries["1.jpg"]
    assert entry.fields == {
        "objects/bbox": [[0, 1, 10, 20], [4, 4, 5, 9.5]],  # from 1 to 10 are ten pixels, and 5 to 5 is one
        "objects/label": ["cat", "dog"],
        "objects/is_truncated": [0, 1],
        "objects/is_difficult": [0, 0],
        "objects/is_occluded": [0, 1],
        "objects/pose": ["Unspecified", "Left"],
    }
    assert entry.frame == (40, 30) and source.read("1.jpg") == b"one"
    assert source.entries["2.jpg"].fields["objects/bbox"] == []
    assert [one.what for one in source.layout.left_out] == ["part of object in XML files"]


@pytest.mark.parametrize("names", [None, ("dog", "cat"), ("dog",)])
def test_classes_are_sorted_or_those_of_a_file(names: tuple[str, ...] | None, tmp_path: Path) -> None:
    source, catalog = Voc(SourceOptions(input=str(made(tmp_path, FILES)))), Catalog(names)
    entries = sorted(source.entries())
    for entry in entries:
        catalog.add(entry)
    schema = catalog.close(source.layout())
    assert schema.class_names == (names or ("cat", "dog"))
    resolved = source.resolve(entries[0])
    assert not isinstance(resolved, Problem)
    reference = schema.reference(resolved)
    if names == ("dog",):
        assert reference == Problem("unknown-class", "the class 'cat' of an object is not in --classes")
    else:
        assert not isinstance(reference, Problem)
        assert reference[0].values["objects/label"] == ([1, 0] if names else [0, 1])


def test_files_that_count_from_0_are_known_by_a_box_at_0(tmp_path: Path) -> None:
    """Files of VOC have no side at 0; those of other tools do, and end a box after its last pixel."""
    source = found(made(tmp_path, FILES | {"Annotations/2.xml": xml(thing(box=(0, 3, 10, 20)))}))
    assert source.entries["2.jpg"].fields["objects/bbox"] == [[0, 3, 10, 20]]
    assert source.entries["1.jpg"].fields["objects/bbox"] == [[1, 2, 10, 20], [5, 5, 5, 9.5]]
    assert "1 box with a side at 0: the files count pixels from 0, not from 1 as VOC does" in source.layout.warnings[0]


def test_image_sets_are_splits(tmp_path: Path) -> None:
    sets = {"train.txt": "1\n\n", "val.txt": "2.jpg\r\n", "trainval.txt": "1\n2\n", "cat_train.txt": "1 -1\n"}
    files = FILES | {f"ImageSets/Main/{name}": text for name, text in sets.items()}
    files |= {"JPEGImages/3.jpg": "", "Annotations/4.xml": xml(), "SegmentationClass/1.png": ""}
    source = found(made(tmp_path, files))
    assert splits(source) == {"1.jpg": "train", "2.jpg": "val"} and source.layout.splits == ("train", "val")
    assert [one.what for one in source.layout.left_out] == [
        "SegmentationClass",
        "1 image",
        "part of object in XML files",
    ]


def test_the_union_of_sets_is_a_split_without_its_parts(tmp_path: Path) -> None:
    files = FILES | {"ImageSets/Main/trainval.txt": "1\n", "ImageSets/Main/test.txt": "2\n"}
    del files["Annotations/2.xml"]
    source = found(made(tmp_path, files))
    assert splits(source) == {"1.jpg": "trainval", "2.jpg": "test"}
    assert source.entries["2.jpg"].fields["objects/bbox"] == []
    assert source.layout.warnings == (
        f"INPUT {tmp_path}: the split test has no XML file: its 1 image are without objects",
    )


@pytest.mark.parametrize("folders", [("images", "annotations"), ("train", "train")], ids=["two-folders", "together"])
def test_other_layouts(folders: tuple[str, str], tmp_path: Path) -> None:
    images, annotations = folders
    files = {f"{images}/{n}.png": "" for n in (1, 2)} | {f"{annotations}/{n}.xml": xml(thing()) for n in (1, 2)}
    source = found(made(tmp_path, files | {"README.md": ""}))
    assert len(source.entries) == 2
    assert source.layout.splits == (("train",) if images == "train" else None)


def test_an_image_in_two_sets_is_refused(tmp_path: Path) -> None:
    files = FILES | {"ImageSets/Main/train.txt": "1\n2\n", "ImageSets/Main/val.txt": "7\n2\n"}
    with pytest.raises(UsageError, match=r"Main/val\.txt line 2: 2 is in train\.txt, too; remove it from one of them"):
        found(made(tmp_path, files))


def test_files_that_belong_to_none(tmp_path: Path) -> None:
    files = FILES | {"ImageSets/Main/train.txt": "1\n2\n7\n"}
    source = found(made(tmp_path / "sets", files))
    assert source.rejects == {
        "ImageSets/Main/train.txt line 3": (
            "missing",
            "ImageSets/Main/train.txt line 3: 7 is no image in JPEGImages",
        )
    }
    source = found(made(tmp_path / "none", FILES | {"Annotations/7.xml": xml(), "JPEGImages/8.jpg": ""}))
    assert source.rejects == {
        "Annotations/7.xml": ("unknown-image", "Annotations/7.xml is of an image that is not there"),
        "8.jpg": ("no-annotation", "has no XML file, as others have: that of 1.jpg is Annotations/1.xml"),
    }


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation><object><name>&b;</name></object></annotation>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><folder>&x;</folder></annotation>'


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        (xml(thing(box=(10, 2, 1, 20))), "bad-box", "line 4: object 1 ('cat') has the box 10, 2, 1, 20: xmin is to be"),
        (xml(thing(), thing(box=(41, 1, 50, 9))), "bad-box", "line 5: object 2 ('cat') has the box 41, 1, 50, 9, o"),
        (xml(thing(box=(1, 1, 5))), "bad-box", "line 4: object 1 ('cat') has nothing for ymax, and no number"),
        (xml(thing(box=("nan", 1, 5, 5))), "bad-box", "has 'nan' for xmin, and no number"),
        (xml(thing(box=("1e999", 1, 5, 5))), "bad-box", "has '1e999' for xmin, and no number"),
        (xml(thing("")), "bad-annotation", "line 4: object 1 has no name"),
        (xml(thing())[:-15], "bad-annotation", "line 4: is no XML (unclosed token)"),
        ("", "bad-annotation", "line 1: is no XML (no element found)"),
        ("<annotation><object></annotation>", "bad-annotation", "line 1: is no XML (mismatched tag)"),
        ("<kml/>", "bad-annotation", "line 1: begins with <kml>, and not with <annotation>"),
        (BOMB, "bad-annotation", "line 1: has a DOCTYPE, whose entities no annotation needs; remove it"),
        (OUTSIDE, "bad-annotation", "line 1: has a DOCTYPE"),
        ("<annotation>" + "<a>" * 100_000, "bad-annotation", "nests elements more than 50 levels deep"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "bad-annotation", "is no XML"),
        ("<annotation>" + " " * (1 << 22), "too-large", "has 4194316 bytes"),
    ],
    ids=["reversed", "outside", "three", "nan", "infinite", "no-name", "cut", "empty", "broken", "other", "bomb",
         "entity", "deep", "encoding", "large"],
)  # fmt: skip
def test_a_file_that_cannot_be_used_rejects_its_image(text: str, reason: str, message: str, tmp_path: Path) -> None:
    source = found(made(tmp_path, FILES | {"Annotations/1.xml": text}))
    assert list(source.entries) == ["2.jpg"]
    (found_reason, said) = source.rejects["1.jpg"]
    assert found_reason == reason and said.startswith("Annotations/1.xml") and message in said


def test_a_name_with_other_characters(tmp_path: Path) -> None:
    text = xml(thing("größer &amp; &#x1F431;")).replace('"1.0"', '"1.0" encoding="ISO-8859-1"')
    made(tmp_path, FILES)
    (tmp_path / "Annotations/1.xml").write_bytes(text.encode("latin-1"))
    assert found(tmp_path).entries["1.jpg"].fields["objects/label"] == ["größer & \U0001f431"]


def test_a_box_that_hangs_over_the_edge_stays(tmp_path: Path) -> None:
    source = found(made(tmp_path, FILES | {"Annotations/1.xml": xml(thing(box=(-3, 1, 60, 31)))}))
    assert source.entries["1.jpg"].fields["objects/bbox"] == [[-4, 0, 60, 31]]  # it is clipped with the pixels


def test_inputs_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist, or is no folder"):
        found(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="has no image that can be used"):
        found(made(tmp_path, {"JPEGImages/x.txt": "", "Annotations/1.xml": xml()}))


@pytest.mark.parametrize("where", ["local", "url"])
def test_a_link_out_of_below_is_a_reject(where: str, tmp_path: Path, bucket: str) -> None:
    place = made(tmp_path / "in", FILES)
    if where == "url":
        import fsspec

        fsspec.filesystem("memory").put(f"{place}/", bucket, recursive=True)
        assert found(bucket, below=bucket).read("1.jpg") == b"one"
        return
    (tmp_path / "secret.xml").write_text(xml(thing("secret")))
    (place / "Annotations/1.xml").unlink()
    (place / "Annotations/1.xml").symlink_to(tmp_path / "secret.xml")
    source = found(place, below=str(place))
    assert source.rejects["1.jpg"][0] == "outside" and "2.jpg" in source.entries
