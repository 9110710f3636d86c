"""`image-shards verify`: the checks of a shard, of its damage, and of a whole dataset."""

__all__: list[str] = []
