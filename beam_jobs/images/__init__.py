"""From an image file to the bytes that are stored of it."""

__all__: list[str] = []
