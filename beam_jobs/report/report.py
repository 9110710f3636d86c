"""The report about a dataset, as one HTML file: the same bytes for the same dataset, wherever and whenever it is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from beam_jobs.report.classes import Classes, classes_of
from beam_jobs.report.findings import findings
from beam_jobs.report.html import rendered
from beam_jobs.report.reading.lists import Lists, read_lists
from beam_jobs.report.reading.looks import Looks
from beam_jobs.report.overview import overview
from beam_jobs.report.sections import changes, duplicates, evidence, gallery, pixels, rejects, sizes
from beam_jobs.report.reading.survey import Survey, survey
from beam_jobs.tools.dataset_files import manifest_at, need_packages, need_shard_packages
from shard_reader.dataset.dataset import Dataset
from shard_reader.dataset.open import open_dataset
from shard_reader.format.manifest import Manifest

__all__ = ["REPORT_NAME", "need_report_packages", "report"]

REPORT_NAME: Final = "report.html"
_PICTURES = 320  # of the gallery
_OF_EACH = 12  # pictures of a class, at most
_WITHOUT_CLASSES = 60  # pictures of a dataset without classes


def need_report_packages() -> None:
    """Refuse to begin without the packages of a report.

    Raises:
        UsageError: a package is not installed; the message names the extra that has it.
    """
    need_packages("report", "jinja2", "PIL", "simplejpeg")


def report(place: str) -> bytes:
    """The report about the dataset at a path or a URL.

    Raises:
        UsageError: the place has no dataset, or a package is missing.
        JobError: the manifest is damaged.
        ShardsError: the dataset cannot be opened.
    """
    need_report_packages()
    files, manifest = manifest_at(place)
    need_shard_packages(manifest)
    splits = [open_dataset(place, name) for name in manifest.splits]
    try:
        lists, classes = read_lists(files, manifest), classes_of(manifest)
        labels = [row.label for row in classes.rows] if classes is not None else []
        of_each = max(1, min(_OF_EACH, _PICTURES // max(1, len(labels))))
        found = survey(manifest, splits, labels, of_each, set(_ids(lists)), remote=files.local is None)
        looks = Looks(splits, [f"{files.uri('').rstrip('/')}/", f"{place.rstrip('/')}/"])
        found.problems = list(map(looks.message, found.problems))
        return rendered(_sections(manifest, found, lists, classes, looks))
    finally:
        for data in splits:
            data.close()


def _ids(lists: Lists) -> Iterator[str]:
    """The ids of records that are shown."""
    for line in lists.duplicates:
        yield from (id for id in (line["id"], line.get("first_id")) if isinstance(id, str))
    yield from (line["id"] for line in lists.suspects)


def _sections(
    manifest: Manifest, found: Survey, lists: Lists, classes: Classes | None, looks: Looks
) -> Mapping[str, Any]:
    """The values of the template. Pictures have room in this order."""
    pairs = duplicates(lists, found, looks)
    refused = rejects(lists, found, looks)
    measured = looks.measured(found.sample)
    seen = pixels(found, measured, looks)
    size = sizes(found, looks, manifest)
    changed = changes(manifest, lists, looks)
    shown = gallery(found, classes, looks, found.sample[:_WITHOUT_CLASSES])
    groups = [*refused, *seen["groups"], *size["groups"]]
    return {
        "manifest": manifest,
        "overview": overview(manifest, classes),
        "findings": [
            (finding, evidence(finding.pictures, pairs, groups))
            for finding in findings(manifest, found, lists, classes)
        ],
        "classes": classes,
        "gallery": shown,
        "sizes": size,
        "pixels": seen,
        "rejects": refused,
        "duplicates": pairs,
        "changes": changed,
        "survey": found,
        "lists": lists,
        "measured": len(measured),
        "left_out": looks.left_out,
    }
