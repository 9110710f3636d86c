"""The parts of `relabel`: its table, the match of the table with records, and the new indexes of shards."""

__all__: list[str] = []
