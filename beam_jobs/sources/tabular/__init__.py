"""Datasets of rows: a row for each image, with its path or with the image inside."""

__all__: list[str] = []
