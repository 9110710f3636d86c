"""Masks and boxes against torchvision: the same orientation, crop, resize and border, by its own functions."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beam_jobs.images.geometry import Geometry
from beam_jobs.images.process import prepare_image
from beam_jobs.images.targets.further import further_payload, payload_field
from beam_jobs.images.targets.objects import Frame, move_objects
from beam_jobs.options import FITS, ImageOptions
from shard_reader.format.image_codecs.table import decode_image, read_header

torch = pytest.importorskip("torch")
tv_tensors = pytest.importorskip("torchvision.tv_tensors")
v2 = pytest.importorskip("torchvision.transforms.v2")
F = v2.functional

OPTIONS = ImageOptions(
    width=33, height=25, fit="crop", filter="nearest", encoding="png", quality=None, dtype="uint8", normalize="none"
)
MASK = payload_field("mask", OPTIONS, (None, None), 3)
# The steps that make an image of each orientation upright (Exif 2.32, section 4.6.4).
UPRIGHT = {
    1: (),
    2: (F.horizontal_flip,),
    3: (lambda found: F.rotate(found, 180, expand=True),),
    4: (F.vertical_flip,),
    5: (lambda found: F.rotate(found, 90, expand=True), F.vertical_flip),
    6: (lambda found: F.rotate(found, -90, expand=True),),
    7: (lambda found: F.rotate(found, 90, expand=True), F.horizontal_flip),
    8: (lambda found: F.rotate(found, 90, expand=True),),
}
# Of odd and even sides; with a middle of whole pixels, since torchvision crops no parts of pixels.
SIZES = {"crop": [(66, 50), (47, 25), (33, 39)]}
BOXES = [[3.0, 4.0, 20.0, 17.0], [10.0, 1.0, 30.0, 22.0]]


def moved(found: Any, geometry: Geometry, orientation: int) -> Any:
    """A mask or boxes of torchvision, by its functions alone."""
    for step in UPRIGHT[orientation]:
        found = step(found)
    left, top, width, height = map(round, geometry.box)
    found = F.crop(found, top, left, height, width)
    wide, tall = geometry.scaled
    if isinstance(found, tv_tensors.Mask):
        pixels = F.resize_image(found.as_subclass(torch.Tensor)[None], [tall, wide], v2.InterpolationMode.NEAREST_EXACT)
        found = tv_tensors.Mask(pixels[0])
    else:
        found = F.resize(found, [tall, wide])
    (left, top), (wide, tall) = geometry.offset, geometry.size
    right, bottom = wide - geometry.scaled[0] - left, tall - geometry.scaled[1] - top
    return F.pad(found, [left, top, right, bottom], fill=7)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", FITS)
def test_masks_and_boxes_are_those_of_torchvision(fit: str, orientation: int) -> None:
    options = replace(OPTIONS, fit=fit, mask_border=7)
    for width, height in SIZES.get(fit, [(41, 29), (40, 33), (31, 64)]):
        stored = (height, width) if orientation >= 5 else (width, height)
        pixels = np.random.default_rng(width).integers(0, 256, stored[::-1], np.uint8)
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(file, "PNG", exif=exif)
        geometry = prepare_image(file.getvalue(), options).geometry

        data = np.frombuffer(further_payload(pixels, MASK, geometry, options).data, np.uint8)
        header = read_header(data)
        mask = decode_image(data, MASK, header.height, header.width)[..., 0]
        expected = moved(tv_tensors.Mask(torch.from_numpy(pixels)), geometry, orientation).numpy()
        assert np.array_equal(mask, expected)

        values, kept = move_objects(
            {"objects/bbox": [one for box in BOXES for one in box]},
            {"objects/bbox": "xyxy"},
            {},
            Frame(geometry, None),
        )
        boxes = tv_tensors.BoundingBoxes(torch.tensor(BOXES), format="XYXY", canvas_size=stored[::-1])
        boxes = moved(F.clamp_bounding_boxes(boxes), geometry, orientation)
        boxes = F.clamp_bounding_boxes(boxes).as_subclass(torch.Tensor).numpy()
        wide, tall = geometry.size
        assert kept is not None
        found = values["objects/bbox"][:, [1, 0, 3, 2]] * [wide, tall, wide, tall]
        # In pixels; torchvision calculates with floats of 32 bits, and turns boxes by sines.
        assert np.allclose(found[kept], boxes[kept], atol=2e-3)
