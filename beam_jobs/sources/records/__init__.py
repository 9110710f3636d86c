"""Datasets in files of many images: TFRecord, HDF5, NumPy, and records of one length."""

from beam_jobs.sources.records.record_files import RecordFiles

__all__ = ["RecordFiles"]
