"""File formats that sources share, and the interface of a source."""

__all__: list[str] = []
