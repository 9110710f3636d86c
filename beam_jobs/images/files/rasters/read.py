"""The kinds of rasters, by their first bytes."""

from __future__ import annotations

from beam_jobs.images.files.rasters.bands import read_bands
from beam_jobs.images.files.rasters.dicom import is_dicom, read_dicom
from beam_jobs.images.files.rasters.raster import Raster
from beam_jobs.images.files.tiff import MAGIC
from beam_jobs.images.files.unread import unread
from beam_jobs.options import ImageOptions

__all__ = ["is_read_alone", "read_raster"]


def is_read_alone(data: bytes) -> bool:
    """Whether a file is of a kind that Pillow must not try."""
    return is_dicom(data)


def read_raster(data: bytes, options: ImageOptions) -> Raster:
    """The values of a file that Pillow does not read.

    Raises:
        BadInput: the file is no raster either, its options cannot hold it, it is too large, or a package is missing.
        Exception: of many kinds, for a damaged file.
    """
    # The first 128 bytes of a DICOM file are free, and may be those of a TIFF file.
    if is_dicom(data):
        return read_dicom(data, options)
    if data.startswith(MAGIC):
        return read_bands(data, options)
    if is_dicom(data, bare=True):
        return read_dicom(data, options)
    raise unread(data)
