"""Checks of a whole dataset: traces of withdrawn records, and `verify` and `index` as Beam jobs."""

__all__: list[str] = []
