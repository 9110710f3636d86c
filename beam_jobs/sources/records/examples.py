"""The entries of TFRecords of `tf.train.Example`: images, values, and further images beside them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beam_jobs.sources.files.interface import BadInput, Entry, Problem
from beam_jobs.sources.files.many_images import Columns, Types, as_label, as_list
from beam_jobs.sources.files.tf_examples import BOXES, Images, check_boxes, value
from beam_jobs.sources.records.further import Further
from shard_reader.format.shard_formats.example import decode

__all__ = ["Examples"]


class Examples:
    """Makes entries of records, one after the other. The first record decides what the others have."""

    def __init__(self, image: str | None, columns: Columns, types: Types, further: Further) -> None:
        """`image` is the feature of images, None to recognise it; the others take note of every record."""
        self._images = Images(image)
        self._columns, self._types, self._further = columns, types, further
        self.hint = ""
        """The reason why there may be no image, as the end of a sentence."""

    @property
    def image(self) -> str | None:
        """The feature of images; None without a record."""
        return self._images.name

    def entry(self, entry: Entry, payload: NDArray[np.uint8], where: str) -> Entry:
        """The entry of a record, completed, or with its defect.

        Args:
            entry: the entry with the place of the record.
            payload: its bytes.
            where: the record in messages.

        Raises:
            UsageError: a value cannot be a field.
        """
        _, file, start, _ = entry.place
        try:
            features = decode(payload)
        except ValueError as error:
            return entry._replace(problem=Problem("bad-record", f"is no tf.train.Example ({error})"))
        try:
            part, pixels = self._images.find(features, payload)
        except BadInput as bad:
            names = ", ".join(sorted(features)) or "none"
            self.hint = self.hint or f"; the first record has the features {names}: name one with --image-key"
            return entry._replace(problem=Problem(bad.reason, str(bad)))
        del features[self._images.name or ""]
        try:
            payloads = self._further.of_features(features, payload, file, start)
        except BadInput as bad:
            return entry._replace(problem=Problem(bad.reason, str(bad)))
        length = part.stop - part.start
        place = ["pixels" if pixels else "bytes", file, start + part.start, length, *pixels]
        entry = entry._replace(size=length, place=place, payloads=payloads)
        self._columns.see(features)
        values = {}
        for feature, parts in features.items():
            if not self._columns.is_needed(feature):
                continue
            found = value(parts, payload, feature, where)
            values[feature] = as_list(found) if feature.startswith("objects/") else found
            is_hot = feature == self._columns.label and isinstance(as_label(values[feature], feature), int)
            self._types.see(feature, parts[:1] if is_hot else parts)
        entry = self._columns.fill(entry, values)
        wrong = check_boxes(values.get(BOXES))
        # The first such record is named if no image is left: the file may simply have boxes of another form.
        if wrong is not None:
            self.hint = self.hint or f"; {where.rpartition(': ')[2]}: {wrong.message}"
        return entry if wrong is None else entry._replace(problem=wrong)
