"""Datasets whose epochs are not each record once, in batches of any: balanced, weighted, and by buckets of sizes."""

__all__: list[str] = []
