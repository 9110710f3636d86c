"""The schema of a dataset: its classes, its splits, and the types of its fields."""

__all__: list[str] = []
