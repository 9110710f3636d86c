"""`image-shards compact`: the records that count, in shards of their own."""

__all__: list[str] = []
