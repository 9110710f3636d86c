"""The report about a dataset, as one HTML file: for the same dataset the same bytes, wherever and whenever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.report.classes import Classes, classes_of
from beam_jobs.report.findings import findings
from beam_jobs.report.html import rendered
from beam_jobs.report.overview import overview
from beam_jobs.report.reading.lists import Lists, read_lists
from beam_jobs.report.reading.previews import Previews
from beam_jobs.report.reading.survey import Survey, survey
from beam_jobs.report.sections import changes, duplicates, evidence, gallery, pixels, rejects, sizes
from beam_jobs.terminal import counted, size_text
from beam_jobs.tools.dataset_files import manifest_at, need_packages, need_shard_packages
from shard_reader.dataset.open import open_dataset
from shard_reader.format.manifest import Manifest
from shard_reader.storage.local import write_whole
from shard_reader.storage.open import is_url

__all__ = ["Report", "make_report", "need_report_packages", "save_report"]

_PICTURES = 320  # of the gallery
_OF_EACH = 12  # pictures of a class, at most
_WITHOUT_CLASSES = 60  # pictures of a dataset without classes


@dataclass(frozen=True, slots=True)
class Report:
    """A report: the HTML file, and its numbers of problems and of all findings."""

    html: bytes
    problems: int
    findings: int

    def describe(self, place: str) -> str:
        """The report at a place, in words."""
        found = f"{counted(self.findings, 'finding')}, {counted(self.problems, 'problem')} among them"
        return f"{place}: {found if self.findings else 'nothing suspicious'}, {size_text(len(self.html))}"


def need_report_packages() -> None:
    """Refuse to begin without the packages of a report.

    Raises:
        UsageError: a package is not installed; the message names the extra that has it.
    """
    need_packages("report", "jinja2", "PIL", "simplejpeg")


def save_report(place: str, file: str) -> Report:
    """Write the report about the dataset at a path or a URL to a file.

    Raises:
        UsageError: there is no such folder, or no file can be there.
        JobError, ShardsError: as `make_report` raises them.
    """
    path = Path(file)
    if is_url(file) or not path.parent.is_dir():
        raise UsageError(
            f"--output {file}: {'is a URL' if is_url(file) else 'there is no such folder'}; give a local file"
        )
    if path.exists() and not path.is_file():
        raise UsageError(f"--output {file}: is {'a folder' if path.is_dir() else 'no file'}; give the name of a file")
    made = make_report(place)
    write_whole(path, [made.html])
    return made


def make_report(place: str) -> Report:
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
        gone = {data.split: {id.decode() for id in data.stored_ids(data.remaining.withdrawn)} for data in splits}
        lists, classes = read_lists(files, manifest, gone), classes_of(manifest)
        labels = [row.label for row in classes.rows] if classes is not None else []
        of_each = max(1, min(_OF_EACH, _PICTURES // max(1, len(labels))))
        found = survey(manifest, splits, labels, of_each, set(_ids(lists)), remote=files.local is None)
        previews = Previews(splits, [f"{files.uri('').rstrip('/')}/", f"{place.rstrip('/')}/"])
        found.problems = list(map(previews.message, found.problems))
        if not any(found.of_class.values()):
            found.of_class = previews.of_lists(found.sample, of_each)
        values = _sections(manifest, found, lists, classes, previews)
        levels = Counter(finding.level for finding, _ in values["findings"])
        return Report(rendered(values), levels["problem"], levels.total())
    finally:
        for data in splits:
            data.close()


def _ids(lists: Lists) -> Iterator[str]:
    """The ids of records that are shown."""
    for line in lists.duplicates:
        yield from (id for id in (line["id"], line.get("first_id")) if isinstance(id, str))
    yield from (line["id"] for line in lists.suspects)


def _sections(
    manifest: Manifest, found: Survey, lists: Lists, classes: Classes | None, previews: Previews
) -> Mapping[str, Any]:
    """The values of the template. Pictures have room in this order."""
    pairs = duplicates(lists, found, previews)
    refused = rejects(lists, found, previews)
    measured = previews.measured(found.sample)
    seen = pixels(found, measured, previews)
    size = sizes(found, previews, manifest)
    changed = changes(manifest, lists, previews)
    shown = gallery(found, classes, previews, found.sample[:_WITHOUT_CLASSES])
    groups = [*refused, *seen["groups"], *size["groups"], *shown]
    return {
        "manifest": manifest,
        "overview": overview(manifest, classes, found.empty),
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
        "near_known": bool(manifest.options.get("near_duplicates")),
        "changes": changed,
        "survey": found,
        "lists": lists,
        "measured": len(measured),
        "left_out": previews.left_out,
    }
