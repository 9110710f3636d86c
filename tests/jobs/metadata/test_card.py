"""`card.yaml`, and the options with the same facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_jobs.cli.prepare import parse
from beam_jobs.errors import UsageError
from beam_jobs.metadata.card import Card, read_card

CARD = """\
name: Photos of pets
license: CC-BY-4.0
source_url: https://user:secret@example.org/pets?token=abc
citation: "@misc{pets}"
description: |
  Two kinds of pets.
date_published: 2026-05-31
creators: [Ann, Bob]
rai:
  dataBiases: [indoor photos, few breeds]
  rai:hasSyntheticData: false
"""


def written(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_card_has_every_fact(tmp_path: Path) -> None:
    assert read_card(written(tmp_path / "card.yaml", CARD)) == Card(
        name="Photos of pets",
        licence="CC-BY-4.0",
        source_url="https://example.org/pets?token=***",
        citation="@misc{pets}",
        description="Two kinds of pets.",
        date_published="2026-05-31",
        creators=("Ann", "Bob"),
        rai={"dataBiases": ("indoor photos", "few breeds"), "hasSyntheticData": False},
    )


def test_options_replace_facts_of_the_card(tmp_path: Path) -> None:
    card, text = written(tmp_path / "card.yaml", CARD), written(tmp_path / "about.md", "About *them*.\n")
    line = ["prepare", "in", "out", "--card", card, "--name", "Pets", "--license", "MIT", "--description", text]
    found = parse([*line, "--source-url", "s3://key:secret@bucket/pets"]).card
    assert (found.name, found.licence, found.citation) == ("Pets", "MIT", "@misc{pets}")
    assert (found.description, found.source_url) == ("About *them*.", "s3://bucket/pets")


def test_the_card_decides_no_shard(tmp_path: Path) -> None:
    plain, named = parse(["prepare", "in", "out"]), parse(["prepare", "in", "out", "--name", "Pets"])
    assert named.deciding() == plain.deciding()
    assert not plain.card and named.card


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: Pets", "unknown key 'names'; the keys are name, licence, source_url"),
        ("- a list", "must be keys and values"),
        ("name: [a", "is not YAML"),
        ("name: 3", "name must be a text, got 3; put it in quotes"),
        ("name: ''", "name must be a text, got ''"),
        ("creators: [1]", "creators must be a text, got 1"),
        ("rai: none", "rai must be keys and values"),
        ("rai: {'data Biases': x}", "rai: 'data Biases' is not the name of a field"),
        ("rai: {dataBiases: {a: b}}", "rai: dataBiases must be a text"),
        ("name: &a x\ncitation: *a", "has an alias"),
        ("name: !!python/object/apply:os.system [true]", "is not YAML"),
        ("[" * 5000, "nests lists and keys more than 20 levels deep"),
        ("name: 2026-99-99T", "name: "),
        (b"name: \xff", "is not UTF-8 at byte 6"),
        ("name: \x00", "is not YAML"),
        ("x" * (1 << 20) + "y", "at most 1048576 are read"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_wrong_card_is_one_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = written(tmp_path / "card.yaml", text)
    if text == "name: 2026-99-99T":  # a text, for YAML
        assert read_card(path).name == "2026-99-99T"
        return
    with pytest.raises(UsageError) as caught:
        read_card(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"--card {path}: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--card nowhere.yaml", "--card nowhere.yaml: No such file"),
        ("--description nowhere.md", "--description nowhere.md: No such file"),
        ("--format hdf5 --dali-index", "--dali-index: is for TFRecords; give --format tfrecord, too"),
        ("--format hdf5 --tfds-layout", "--tfds-layout: is for TFRecords"),
        ("--tfds-layout --name 123", "--tfds-layout: '123' gives no name of letters; give --name"),
    ],
)
def test_a_wrong_option_is_one_line(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(["prepare", "in", "out", *line.split()])
    assert message in str(caught.value) and "\n" not in str(caught.value)
