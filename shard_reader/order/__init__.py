"""Positions to records, as arithmetic, and the coverage of an epoch."""

__all__: list[str] = []
