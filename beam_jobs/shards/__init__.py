"""From references to published shards."""

__all__: list[str] = []
