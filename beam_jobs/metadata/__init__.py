"""The papers of a dataset: files by which people and other programs understand it."""

__all__: list[str] = []
