"""`README.md`: its YAML header, and a page on which no name has a meaning."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from support.stored import FIELDS

from beam_jobs.metadata.card import Card
from beam_jobs.metadata.page import page
from shard_reader.format import Counts, Field, Fingerprint, Manifest, ShardTable, Split

HOSTILE = [
    "---",
    "a\n---\nb: c",
    "<script>alert(1)</script>",
    "| a | b |",
    "`code` ```",
    "[link](javascript:alert(1)) ![x](y)",
    "key: value # comment",
    "'\"\\",
    "!!python/object:os.system",
    "{a: [b]}",
    "*bold* _it_ ~gone~ $x$",
    "\x1b[31m\u202e",
    "yes",
    "1.0",
    "é漢字",
    "0" * 64,
    "x" * 5000,
]


def manifest(names: tuple[str, ...] = ("cat", "dog"), **changes: Any) -> Manifest:
    classes = dict.fromkeys(names, 1)
    made = Manifest(
        fields=FIELDS,
        formats=("tfrecord",),
        splits={"train": Split(records=len(names), shards=ShardTable.of(()), classes=classes)},
        class_names=names,
        statistics=None,
        counts=Counts(ignored=0, planned=len(names), written=len(names), rejected=0),
        seed=0,
        options={},
        fingerprint=Fingerprint(inputs="", options="", codecs={}),
        files={"metadata.parquet": "", "card-1.jpg": ""},
    )
    return replace(made, **changes)


def parts(text: str) -> tuple[dict[str, Any], str]:
    """The header as the Hub finds it, and the page."""
    match = re.match(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|$))", text)
    assert match is not None
    return yaml.safe_load(match[2]), text[match.end() :]


def test_the_header_has_what_the_hub_reads() -> None:
    header, body = parts(page(manifest(), Card(name="Pets", licence="CC-BY-4.0"), "pets"))
    assert header == {
        "pretty_name": "Pets",
        "license": "cc-by-4.0",
        "task_categories": ["image-classification"],
        "size_categories": ["n<1K"],
        "tags": ["image-shards"],
        "configs": [{"config_name": "default", "data_files": [{"split": "records", "path": "metadata.parquet"}]}],
    }
    assert body.lstrip().startswith("# Pets\n")
    assert "![images of the dataset](card-1.jpg)\n" in body and "card-2.jpg" not in body
    assert "| cat | 1 |" in body


def test_facts_that_are_not_given_are_not_there() -> None:
    header, body = parts(page(manifest(), Card(), "pets"))
    assert header["pretty_name"] == "pets" and not {"license", "license_name"} & set(header)
    for word in ("Licence", "Citation", "Source", "Creators", "Published", "Responsible"):
        assert word not in body


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", {"license": "mit"}),
        ("Our own: ask us", {"license": "other", "license_name": "Our own: ask us"}),
        (
            "https://example.org/terms",
            {
                "license": "other",
                "license_name": "https://example.org/terms",
                "license_link": "https://example.org/terms",
            },
        ),
    ],
)
def test_a_licence_that_the_hub_does_not_know_is_other(licence: str, expected: dict[str, str]) -> None:
    header, body = parts(page(manifest(), Card(licence=licence), "pets"))
    assert {key: value for key, value in header.items() if key.startswith("license")} == expected
    assert "Licence" in body


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:20])
def test_hostile_facts_come_back_from_the_header(text: str) -> None:
    header, body = parts(page(manifest(), Card(name=text, licence=text), "pets"))
    assert header["pretty_name"] == header["license_name"] == text
    assert_harmless(body)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:20])
def test_hostile_names_are_text_on_the_page(text: str) -> None:
    fields = {**FIELDS, text: Field(dtype="string")}
    made = manifest(("cat", text), fields=fields, options={"split": text, "image": {"fit": "cover", "filter": text}})
    made = replace(made, splits={text: next(iter(made.splits.values()))})
    card = Card(citation=text, source_url=text, url=text, creators=(text,), rai={"dataBiases": text})
    header, body = parts(page(made, card, text))
    assert header["pretty_name"] == text
    assert_harmless(body)
    # Every row of a table has the cells of its head.
    assert all(len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 5) for line in body.splitlines() if line.startswith("| "))


def assert_harmless(body: str) -> None:
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside and "\x1b" not in outside and "\u202e" not in outside
    assert not re.search(r"(?<!\\)\[link", outside) and not re.search(r"^---$", outside, re.MULTILINE)


def test_a_page_of_many_classes_is_short() -> None:
    names = tuple(f"class {number}" for number in range(20_000))
    text = page(manifest(names), Card(), "many")
    assert "20000 classes" in text and "And 19,900 more." in text and len(text) < 10_000


def test_the_sizes_of_the_hub() -> None:
    counts = manifest().counts
    sizes = [999, 1000, 99_999, 10_000_000, 10**12]
    found = [
        parts(page(manifest(counts=replace(counts, written=size)), Card(), "x"))[0]["size_categories"] for size in sizes
    ]
    assert found == [["n<1K"], ["1K<n<10K"], ["10K<n<100K"], ["10M<n<100M"], ["n>1T"]]
