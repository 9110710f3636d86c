"""The values of records, and conditions on them."""

__all__: list[str] = []
