"""What a report reads of a dataset: its indexes, its lists, and the pixels of some records."""

__all__: list[str] = []
