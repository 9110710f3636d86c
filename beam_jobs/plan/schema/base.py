"""The dataset that a job adds to: its classes, fields and splits are those of the new records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.options import SplitRule
from beam_jobs.plan.schema.catalog import Schema
from beam_jobs.plan.schema.columns import type_text
from beam_jobs.plan.splits import split_names, train_among
from beam_jobs.sources.files.interface import Layout
from shard_reader.format.fields import IMAGE, INPUT_FIELDS, Field
from shard_reader.format.manifest import Fingerprint, Manifest, canonical_json
from shard_reader.printable import excerpt, printable

__all__ = ["Base", "NothingToAdd", "conformed"]

_OF_EVERY_RECORD = frozenset({"image", "id", "height", "width", *INPUT_FIELDS})
_SHOWN = 5  # differences in an error


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A dataset to which a job adds records. `replaces` is True if new records replace old ones of the same id."""

    place: str
    folder: str
    manifest: Manifest
    replaces: bool = False

    @property
    def statistics_split(self) -> str:
        """The split whose pixels are measured."""
        found = self.manifest.statistics
        return train_among(list(self.manifest.splits)) if found is None else found.split

    @property
    def normalization(self) -> ChannelSums | None:
        """The sums that normalized the pixels of the dataset; None if its pixels are not normalized by them.

        Raises:
            UsageError: the manifest should have them, and has not.
        """
        if self.manifest.options["image"].get("normalize") != "dataset":
            return None
        try:
            found = self.manifest.options["normalization"]
            return ChannelSums.from_line(
                json.dumps([found[n] for n in ("pixels", "peak", "total", "squares")]).encode()
            )
        except (KeyError, TypeError, ValueError):
            raise UsageError(
                f"{self.place}: its manifest has no sums that normalize pixels; prepare it again"
            ) from None

    def fingerprint(self, found: Fingerprint) -> Fingerprint:
        """The fingerprint of a job that adds inputs: in another dataset, they give other shards."""
        text = canonical_json([found.inputs, self.manifest.fingerprint.digest, self.replaces])
        return replace(found, inputs=hashlib.sha256(text.encode()).hexdigest())


class NothingToAdd(UsageError):
    """No input of an append is a new one. `rejected` of them cannot be used, as `first` is a reason."""

    def __init__(self, rejected: int, first: str = "") -> None:
        super().__init__("the dataset has all of these inputs")
        self.rejected, self.first = rejected, first


def conformed(schema: Schema, layout: Layout, base: Base, classes: Sequence[str] | None, rule: SplitRule) -> Schema:
    """The schema of INPUT with the fields and the classes of the dataset that it is added to. New classes come last.

    Args:
        schema: the schema of INPUT.
        layout: its layout.
        base: the dataset.
        classes: the names of `--classes`.
        rule: the rule of the splits.

    Raises:
        UsageError: INPUT has other fields, or other splits.
    """
    manifest = base.manifest
    problems = [*_label_problems(schema, manifest), *_field_problems(schema, layout, manifest.fields)]
    problems += _split_problems(schema, manifest, rule)
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + ("; ..." if len(problems) > _SHOWN else "")
        raise UsageError(f"--append: INPUT does not fit {base.place}: {printable(shown)}. --fields chooses columns")
    names, own = _classes(schema, manifest, classes)
    there = manifest.fields
    roles = {name: _role(field) for name, field in there.items() if field.is_payload and name != IMAGE}
    return replace(
        schema,
        class_names=names,
        labels={name: number for number, name in enumerate(names or ())},
        own_numbers=own,
        fields={name: there[name] for name in there if name in schema.fields},
        payloads={name: roles[name] for name in roles if name in schema.payloads},
    )


def _label_problems(schema: Schema, manifest: Manifest) -> Iterator[str]:
    if "label" in schema.fields and "label" in manifest.fields:
        if schema.numbers and manifest.class_names is not None:
            yield "labels are names there, and numbers here (--classes gives numbers their names)"
        if schema.class_names is not None and manifest.class_names is None:
            yield "labels are numbers there, and names here"


def _split_problems(schema: Schema, manifest: Manifest, rule: SplitRule) -> Iterator[str]:
    there = manifest.splits
    new = [name for name in split_names(rule, schema) if name not in there]
    if new:
        yield f"the split {new[0]} is not there, which has {', '.join(there)}"
    elif not schema.splits and not rule.parts and len(there) > 1:
        yield f"images have splits of their own there ({', '.join(there)}), and none here"


def _field_problems(schema: Schema, layout: Layout, there: dict[str, Field] | Any) -> Iterator[str]:
    """A sentence for each field that differs."""
    own = {name for name, field in there.items() if not field.is_payload} - _OF_EVERY_RECORD
    payloads = {name for name, field in there.items() if field.is_payload} - {IMAGE}
    for name in sorted((own | payloads) - schema.fields.keys() - schema.payloads.keys()):
        yield f"the field {name} is missing here"
    for name in sorted((schema.fields.keys() | schema.payloads.keys()) - own - payloads):
        yield f"the field {name} is not there"
    for name in sorted(own & schema.fields.keys()):
        found = schema.fields[name]
        if not _fits(name, found, there[name], untyped=layout.untyped):
            yield f"the field {name} is {_text(there[name])} there, and {_text(found)} here"
    for name in sorted(payloads & schema.payloads.keys()):
        if schema.payloads[name] != _role(there[name]):
            yield f"the field {name} is of {_role(there[name])} there, and of {schema.payloads[name]} here"


def _fits(name: str, found: Field, there: Field, *, untyped: bool) -> bool:
    """Whether every value of a field can be stored as one of another type, unchanged."""
    if name == "label":
        return found.shape == there.shape or there.shape == (None,)
    roles = (found.role, found.names, found.flip_pairs) == (there.role, there.names, there.flip_pairs)
    widens = (found.dtype, there.dtype) == ("int64", "float32") or (untyped and there.dtype == "string")
    return found.shape == there.shape and roles and (found.dtype == there.dtype or widens)


def _text(field: Field) -> str:
    role = f" of the role {field.role}" if field.role else ""
    return f"a {type_text(field)}{role}"


def _role(field: Field) -> str:
    return "bytes" if field.dtype == "bytes" else field.role or "photo"


def _classes(
    schema: Schema, manifest: Manifest, classes: Sequence[str] | None
) -> tuple[tuple[str, ...] | None, tuple[int, ...] | None]:
    """The names of all classes, and the number of each of INPUT's own; None where these have no numbers."""
    there, here = manifest.class_names, schema.class_names
    if there is None or here is None:
        return there if here is None else here, None
    if classes is not None and tuple(classes[: len(there)]) != there:
        wrong = next((place for place, name in enumerate(there) if tuple(classes[place : place + 1]) != (name,)), 0)
        raise UsageError(
            f"--classes: class {wrong} of the dataset is {excerpt(there[wrong])}; give its {len(there)} names first,"
            " in their order, and then new ones"
        )
    known = set(there)
    names = (*there, *(name for name in here if name not in known))
    numbers = {name: number for number, name in enumerate(names)}
    return names, tuple(numbers[name] for name in here)
