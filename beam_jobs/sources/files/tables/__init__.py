"""Files of rows, and lists in JSON, read a piece at a time."""

__all__: list[str] = []
