"""From a reference to a record: read, check, transform."""

__all__: list[str] = []
