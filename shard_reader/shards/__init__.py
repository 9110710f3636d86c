"""Open shards, local or remote, and the records in them."""

__all__: list[str] = []
