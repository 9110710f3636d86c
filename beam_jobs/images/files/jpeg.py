"""Complaints of libjpeg-turbo: the ones about lost pixels, and the harmless ones."""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from beam_jobs.sources.files.interface import BadInput

__all__ = ["decode_jpeg"]

# Parts of the messages in libjpeg's jerror.h that stand for pixels which are missing, or made up. Other messages are of
# bytes that no pixel needs: JWRN_EXTRANEOUS_DATA, JWRN_ADOBE_XFORM, JWRN_JFIF_MAJOR, JWRN_NOT_SEQUENTIAL.
_LOSSES = ("premature end", "bad huffman code", "bad arithmetic code", "instead of rst", "too many scanlines")

_SCAN = b"\xda"
_BARE = (0x00, 0x01, *range(0xD0, 0xDA), 0xFF)  # markers without a length, which no header has, and fill bytes


def decode_jpeg(data: bytes, colorspace: str, least: tuple[int, int] = (0, 0)) -> tuple[NDArray[np.uint8], str]:
    """The pixels of a JPEG, `[height, width, channels]`, and libjpeg-turbo's complaint, "" if it has none.

    Args:
        data: the file.
        colorspace: "GRAY", "RGB", "RGBX", or "CMYK", of a file of this kind.
        least: a width and a height. The image is decoded at the smallest size, of those that libjpeg-turbo makes of its
            blocks, that has at least these: at these, if they are one of its sizes. 0 stands for the image's own.

    Raises:
        BadInput: pixels are missing.
        ValueError: libjpeg-turbo cannot decode the file at all.
    """
    size = {"min_width": least[0], "min_height": least[1]}
    try:
        return simplejpeg.decode_jpeg(data, colorspace, **size), ""
    except ValueError as error:
        complaint = str(error)
    # Of several complaints this is the first one.
    if any(loss in complaint.lower() for loss in _LOSSES):
        raise BadInput("damaged", complaint)
    # simplejpeg never reads on after a complaint about the header.
    tidy = _without_garbage(data) if "extraneous" in complaint else data
    if len(tidy) < len(data):
        pixels, further = decode_jpeg(tidy, colorspace, least)
        return pixels, f"{complaint}; {further}" if further else complaint
    return simplejpeg.decode_jpeg(data, colorspace, strict=False, **size), complaint


def _without_garbage(data: bytes) -> bytes:
    """A JPEG file without the bytes between the segments of its header (ITU-T T.81, annex B)."""
    parts, position = [data[:2]], 2
    while data[position + 1 : position + 2] not in (b"", _SCAN):
        start = data.find(b"\xff", position)
        length = int.from_bytes(data[start + 2 : start + 4])
        if start < 0 or length < 2 or data[start + 1] in _BARE:
            return data
        parts.append(data[start : start + 2 + length])
        position = start + 2 + length
    return b"".join([*parts, data[position:]])
