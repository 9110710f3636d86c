"""Sentences about a dataset that follow from its manifest: how it was made, and what is known of its defects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from beam_jobs.terminal import counted
from shard_reader.format.fields import IMAGE, Field, further_images
from shard_reader.format.manifest import DUPLICATES_NAME, REJECTS_NAME, SUSPECTS_NAME, Counts, Manifest

__all__ = ["defects", "field_words", "processing"]

_FITS = {
    "cover": "resized to the smallest size that covers {box}",
    "crop": "resized to cover {box} and cropped to its centre",
    "inside": "resized to the largest size inside {box}",
    "pad": "resized to fit into {box} and padded to it",
    "stretch": "resized to {box} without keeping the aspect ratio",
    "none": "kept at its size",
}
_NEAR = {
    "drop": "Of inputs that look alike, the largest was kept.",
    "group": "Inputs that look alike are in one split.",
}
_FIELDS = {
    "image": "the image",
    "id": "unique in the dataset",
    "height": "of the stored image, in pixels",
    "width": "of the stored image, in pixels",
    "original_height": "of the input, upright, in pixels",
    "original_width": "of the input, upright, in pixels",
    "content_hash": "first 64 bits of the XXH3-128 of the input",
    "phash": "perceptual hash (DCT) of the stored image",
    "dhash": "perceptual hash (differences) of the stored image",
    "values_hash": "first 64 bits of the XXH3-128 of the input's labels, fields and further files",
    "label": "the number of the class",
    "objects/bbox": "ymin, xmin, ymax, xmax, as parts of the stored image's height and width",
    "objects/label": "the number of each object's class",
    "objects/segmentation": "the outline of each object, as JSON",
    "instances": "for each pixel the number of its object, from 1 on; 0 elsewhere",
}
_ROLES = {
    "photo": "a further image of the record",
    "mask": "for each pixel a number, as of its class",
    "depth": "for each pixel a measured value, as its depth",
    "boxes": _FIELDS["objects/bbox"],
    "points": "y, x, as parts of the stored image's height and width",
    "keypoints": "y, x as parts of the stored image, and 0 (not labelled), 1 (hidden) or 2 (visible)",
}
_PLACES = {"mask": "the nearest pixel", "depth": "values in their own unit"}
_MOST_NAMES = 40  # of keypoints


def processing(manifest: Manifest) -> list[str]:
    """The steps from the inputs to the records, a sentence for each."""
    return list(_processing(manifest, manifest.options))


def defects(counts: Counts) -> list[str]:
    """The known defects of the records and the inputs, a sentence for each."""
    known = [
        (counts.rejected, "inputs could not be used or were left out; each is listed with its reason in", REJECTS_NAME),
        (counts.suspects, "images may be damaged; they are listed in", SUSPECTS_NAME),
        (counts.duplicates, "records have the bytes of an earlier one; they are listed in", DUPLICATES_NAME),
        (counts.leaks, "of the records with the same bytes are in another split; see", DUPLICATES_NAME),
        (counts.contradictions, "of the records with the same bytes have another label; see", DUPLICATES_NAME),
        (counts.near_duplicates, "records look like an earlier one; they are listed in", DUPLICATES_NAME),
        (counts.near_leaks, "of the records that look alike are in another split; see", DUPLICATES_NAME),
    ]
    return [f"{count} {words} {name}." for count, words, name in known if count]


def field_words(name: str, field: Field) -> tuple[str, str]:
    """The type of a field, and its meaning; the meaning is "" for a field of the inputs."""
    shape = ", ".join("n" if size is None else str(size) for size in field.shape)
    kind = f"{field.dtype} [{shape}]" if shape else field.dtype
    parts = [kind, *([field.encoding] if field.encoding else []), *([field.role] if field.role else [])]
    meaning = _FIELDS.get(name) or _ROLES.get(field.role or "", "")
    if field.names:
        meaning += f": {', '.join(field.names[:_MOST_NAMES])}" + (", ..." if len(field.names) > _MOST_NAMES else "")
    return ", ".join(parts), meaning


def _processing(manifest: Manifest, options: Mapping[str, Any]) -> Iterator[str]:
    counts = manifest.counts
    inputs = counts.written + counts.rejected
    yield f"image-shards read {counted(inputs, 'input')} and stored {counted(counts.written, 'image')}."
    image = options.get("image")
    yield from _image(manifest.fields[IMAGE], image if isinstance(image, Mapping) else {})
    yield from _further_images(manifest.fields)
    if options.get("split"):
        by = f"groups of {options['group_by']}" if options.get("group_by") else "the hash of their ids"
        by = "class, in the same proportion each" if options.get("stratify") else by
        yield f"The inputs were split by {by}: {options['split']} (seed {manifest.seed})."
    else:
        yield "The splits are those of the inputs."
    if options.get("drop_duplicates"):
        yield "Of inputs with the same bytes, one was kept."
    near = {
        "drop": "Of inputs that look alike, the largest was kept.",
        "group": "Inputs that look alike are in one split.",
    }
    if (way := str(options.get("near_duplicates"))) in near:
        yield near[way]
    for kind, count in counts.changed.items():
        yield f"{counted(count, 'record')} changed in: {kind}."


def _further_images(fields: Mapping[str, Field]) -> Iterator[str]:
    for name in further_images(fields):
        field = fields[name]
        kept = f", with {_PLACES[field.role]}" if field.role in _PLACES else ""
        stored = f"stored as {field.encoding}, {field.dtype}"
        yield f"{name} was turned, resized and cropped like its image{kept}, and is {stored}."


def _image(field: Field, options: Mapping[str, Any]) -> Iterator[str]:
    # A manifest is data from elsewhere, and has values of any type.
    fit, box = str(options.get("fit")), f"{options.get('width')}x{options.get('height')} pixels"
    if fit in _FITS:
        filter = "" if fit == "none" else f" (filter {options.get('filter')})"
        larger = ", and never enlarged" if options.get("only_shrink") else ""
        yield f"Each image was turned upright and {_FITS[fit].format(box=box)}{filter}{larger}."
    normalize = options.get("normalize", "none")
    if normalize != "none":
        yield f"The pixels were normalised ({normalize})."
    names = {1: "grey", 3: "RGB", 4: "RGB with opacity", None: "with its own channels"}
    channels = names.get(field.shape[2], f"{field.shape[2]} bands")
    quality = f", quality {options['quality']}" if options.get("quality") else ""
    yield f"Each image is stored as {field.encoding}, {field.dtype}, {channels}{quality}."
