"""Which image goes where: from a listing to shard tasks."""

__all__: list[str] = []
