"""Images as arrays: of NumPy, of records of one length, and of HDF5."""

from beam_jobs.sources.files.arrays.hdf5 import HDF5Files, check_stored, hdf5_arrays
from beam_jobs.sources.files.arrays.plain import (
    Array,
    RowArray,
    as_pixels,
    blocks,
    check_images,
    check_label,
    describe,
    field,
    is_files,
    npy_array,
    npz_arrays,
    parse_record,
    placing,
    record_arrays,
    values,
)

__all__ = [
    "Array",
    "HDF5Files",
    "RowArray",
    "as_pixels",
    "blocks",
    "check_images",
    "check_label",
    "check_stored",
    "describe",
    "field",
    "hdf5_arrays",
    "is_files",
    "npy_array",
    "npz_arrays",
    "parse_record",
    "placing",
    "record_arrays",
    "values",
]
