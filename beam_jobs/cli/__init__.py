"""Command lines: from words to options, from results to text."""

__all__: list[str] = []
