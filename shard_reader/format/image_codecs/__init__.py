"""Encodings of stored images, both directions: a module for each, and the table of them."""

__all__: list[str] = []
