"""Worker processes, which make the batches of a stream in memory that they share with it."""

__all__: list[str] = []
