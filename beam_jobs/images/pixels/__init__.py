"""Arithmetic on decoded pixels: colours and sizes."""

__all__: list[str] = []
