"""The report about a finished dataset: one HTML file with pictures. It imports no Beam and no options of `prepare`."""

__all__: list[str] = []
