"""Files that are not read: their kind by their first bytes, and what to do."""

from __future__ import annotations

import re
from typing import Final

from beam_jobs.images.files.packages import installed, missing
from beam_jobs.images.files.tiff import described
from beam_jobs.sources.files.interface import BadInput

__all__ = ["unread"]

_BEGINNING = 4096  # bytes in which a kind shows
_KINDS: Final = (
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL, which is not read; convert it, as with djxl"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg\b", "an SVG drawing; render it first"),
    (
        rb"(\xef\xbb\xbf)?\s*(<!doctype html|<html)",
        "a web page, perhaps an error in place of a download; fetch it again",
    ),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file; run git lfs pull"),
    (rb"%PDF-", "a PDF document; render its pages first"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript, which would run a program; render it first"),
    (rb"II\x2a\0.{4}CR\x02|FUJIFILMCCD-RAW|II(R[OS]|U\0)", "a camera's raw file; develop it first"),
    (rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ", "a video; extract its frames first"),
    (rb"SIMPLE  =", "FITS, whose pixels have no known range; scale them to unsigned integers"),
    (rb"\x76\x2f\x31\x01", "OpenEXR, whose pixels have no known range; scale them to unsigned integers"),
    (rb"\x89HDF\r\n|\x93NUMPY", "arrays, not an image; give them alone as INPUT"),
    (rb"\x1f\x8b|PK\x03\x04|Rar!|7z\xbc\xaf", "an archive, not an image; unpack it, or give it alone as INPUT"),
)


_HEIF: Final = re.compile(rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL)


def unread(data: bytes) -> BadInput:
    """The reject of a file that is not an image to Pillow: its kind, and what to do."""
    if _HEIF.match(data):
        if not installed("pillow_heif"):
            return missing("pillow-heif", "heic", "HEIC images")
        return BadInput("damaged", "a HEIC file whose header or image cannot be read; fetch or export it again")
    return BadInput("not-an-image", _described(data))


def _described(data: bytes) -> str:
    """The kind of a file and what to do; a plain sentence for an unknown kind."""
    beginning = data[:_BEGINNING]
    for pattern, text in _KINDS:
        if re.match(pattern, beginning, re.DOTALL | re.IGNORECASE):
            return text
    if not beginning.strip(b"\0"):
        return "zeros alone, as of a download that was cut off; fetch it again"
    tiff = described(data)
    return f"{tiff}, which Pillow cannot read; convert it" if tiff else "no image format that Pillow knows"
