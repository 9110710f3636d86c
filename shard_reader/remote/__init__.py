"""Bytes on their way from an object store: requests, ranges, and the cache on a local disk."""

__all__: list[str] = []
