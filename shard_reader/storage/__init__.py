"""Directories and files, on a disk or in an object store."""

__all__: list[str] = []
