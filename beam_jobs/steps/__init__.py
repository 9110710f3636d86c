"""The steps of a job in a row, its plan in numbers, and its summary."""

__all__: list[str] = []
