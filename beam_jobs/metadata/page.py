"""`README.md`: the card of a dataset, a page for people below a YAML header for the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from beam_jobs.metadata.card import Card
from beam_jobs.metadata.facts import defects, field_words, processing
from beam_jobs.terminal import counted, size_text
from shard_reader.format.fields import PAYLOADS, extensions
from shard_reader.format.manifest import PARQUET_NAME, PICTURE_NAMES, Manifest, Split
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.printable import printable
from shard_reader.storage.open import is_url

__all__ = ["page"]

_LONGEST: Final = 200  # characters of a name on the page
_MOST_ROWS: Final = 100  # of a table
_SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_MORE_SIZES: Final = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Within a word, a "_" is only itself.
_SPECIAL: Final = re.compile(r"[\\`*\[\]#|~$&<>]|(?<![^\W_])_|_(?![^\W_])")

# The identifiers that the Hub knows; it refuses a page with any other.
_LICENCE_NAMES: Final = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
fair-noncommercial-research-license gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0
lgpl-lr lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 pddl postgresql unlicense
wtfpl zlib
"""
_LICENCES: Final = frozenset(_LICENCE_NAMES.split())


def page(manifest: Manifest, card: Card, name: str) -> str:
    """The text of the page.

    Args:
        manifest: the manifest of the dataset.
        card: the facts that its author gives.
        name: the name of the dataset where the card has none.
    """
    import yaml

    header = yaml.safe_dump(_header(manifest, card, name), sort_keys=False, allow_unicode=True, width=1 << 20)
    body = "\n".join(_body(manifest, card, name))
    return f"---\n{header}---\n\n{body}\n"


def _header(manifest: Manifest, card: Card, name: str) -> dict[str, Any]:
    header: dict[str, Any] = {"pretty_name": card.name or name, **_licence(card.licence)}
    names, roles = manifest.fields, {field.role for field in manifest.fields.values()}
    tasks = [("label", "image-classification"), ("objects/bbox", "object-detection")]
    role_tasks = [("mask", "image-segmentation"), ("keypoints", "keypoint-detection"), ("depth", "depth-estimation")]
    found = [task for name, task in tasks if name in names] + [task for role, task in role_tasks if role in roles]
    if found:
        header["task_categories"] = found
    sizes = (*_SIZES, *_MORE_SIZES)
    header["size_categories"] = [next((size for most, size in sizes if manifest.counts.written < most), "n>1T")]
    header["tags"] = ["image-shards"]
    if tables := manifest.lists(PARQUET_NAME):
        # Otherwise the Hub would guess from the names of files, and take the pictures of this page for the dataset.
        files = [{"split": "records", "path": tables[0] if len(tables) == 1 else list(tables)}]
        header["configs"] = [{"config_name": "default", "data_files": files}]
    return header


def _licence(licence: str | None) -> dict[str, str]:
    if licence is None:
        return {}
    if licence.lower() in _LICENCES:
        return {"license": licence.lower()}
    link = {"license_link": licence} if is_url(licence) else {}
    return {"license": "other", "license_name": licence, **link}


def _body(manifest: Manifest, card: Card, name: str) -> Iterator[str]:
    yield f"# {_shown(card.name or name)}\n"
    if card.description:
        yield f"{card.description}\n"
    if shown := [f"![images of the dataset]({name})" for name in PICTURE_NAMES if name in manifest.files]:
        yield "\n".join(shown) + "\n"
    yield "## Splits\n"
    rows = [(_shown(key), *_numbers(split)) for key, split in manifest.splits.items()]
    yield from _table(("split", "records", "shards", "size"), rows)
    yield from _classes(manifest)
    yield "## Fields\n"
    fields = ((_shown(key), *map(_shown, field_words(key, field))) for key, field in manifest.fields.items())
    yield from _table(("field", "type", "meaning"), list(fields))
    yield "## How it was made\n"
    yield from _list([*processing(manifest), *defects(manifest.counts)])
    yield from _use(manifest)
    yield from _origin(card)


def _numbers(split: Split) -> tuple[str, str, str]:
    size = sum(map(split.shards.bytes, split.shards.files))
    return f"{split.records:,}", f"{len(split.shards):,}", size_text(size)


def _classes(manifest: Manifest) -> Iterator[str]:
    counted_splits = {name: split.classes for name, split in manifest.splits.items() if split.classes is not None}
    names = manifest.class_names or sorted({name for classes in counted_splits.values() for name in classes})
    if not names or not counted_splits:
        return
    yield "## Classes\n"
    yield f"{counted(len(names), 'class')}, with the number of labels in each split.\n"
    rows = [(_shown(name), *(f"{found.get(name, 0):,}" for found in counted_splits.values())) for name in names]
    yield from _table(("class", *map(_shown, counted_splits)), rows)


def _use(manifest: Manifest) -> Iterator[str]:
    split = next(iter(manifest.splits))
    yield "## How to read it\n"
    yield from _fenced(
        "python",
        "# pip install image-shards[decode]\n"
        "from shard_reader import open_dataset\n\n"
        f'data = open_dataset(".", split={split!r})  # the folder of this page, or its URL\n'
        'print(data[0]["image"].shape)',
    )
    known = [SHARD_FORMATS[name] for name in manifest.formats]
    if any(format.in_tfds for format in known):
        yield "The shards are plain TFRecords: `tfds.builder_from_directory(FOLDER)` opens them, too.\n"
    if tables := manifest.lists(PARQUET_NAME):
        left_out = "images and bytes" if PAYLOADS in extensions(manifest.fields) else "the images"
        named = " and ".join(f"`{name}`" for name in (tables if len(tables) < 3 else (tables[0], f"*/{PARQUET_NAME}")))
        has = "has" if len(tables) == 1 else "have"
        yield f"{named} {has} all fields of the records but {left_out}, for pandas and the viewer of the Hub.\n"


def _origin(card: Card) -> Iterator[str]:
    facts = [
        ("Creators", ", ".join(map(_shown, card.creators))),
        ("Published", _shown(card.date_published or "")),
        ("Page", _link(card.url)),
        ("Source of the images", _link(card.source_url)),
        ("Licence", _link(card.licence)),
    ]
    if given := [f"{title}: {text}" for title, text in facts if text]:
        yield "## Origin and licence\n"
        yield from (f"- {line}" for line in given)
        yield ""
    if card.citation:
        yield "## Citation\n"
        yield from _fenced("bibtex" if card.citation.startswith("@") else "text", card.citation)
    if card.rai:
        yield "## Responsible use\n"
        texts = {key: ", ".join(value) if isinstance(value, tuple) else str(value) for key, value in card.rai.items()}
        yield from (f"- {_shown(key)}: {_shown(text, 1 << 20)}" for key, text in texts.items())
        yield ""


def _link(text: str | None) -> str:
    """A text, as a link if it is the URL of a web page."""
    if text is None or not re.fullmatch(r"https?://[^\s<>\\]+", text):
        return _shown(text or "")
    return f"<{text}>"


def _list(sentences: Iterable[str]) -> Iterator[str]:
    yield from (f"- {_shown(text, 1 << 20)}" for text in sentences)
    yield ""


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (titles, ["---"] * len(titles), *rows[:_MOST_ROWS]):
        yield f"| {' | '.join(cells)} |"
    yield "" if len(rows) <= _MOST_ROWS else f"\nAnd {len(rows) - _MOST_ROWS:,} more.\n"


def _fenced(language: str, text: str) -> Iterator[str]:
    """A block of code. Its fence is longer than any run of backquotes in it."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    yield f"{fence}{language}\n{text}\n{fence}\n"


def _shown(text: str, most: int = _LONGEST) -> str:
    """A text of others on one line of Markdown, of which no character has a meaning there."""
    short = printable(text if len(text) <= most else f"{text[:most]}...")
    return _SPECIAL.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), short)
