"""Positions to records, as arithmetic: which record is where, and which were seen."""

__all__: list[str] = []
