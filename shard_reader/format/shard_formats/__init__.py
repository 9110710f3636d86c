"""File formats of shards, both directions: the codecs, and the table of them."""

__all__: list[str] = []
