"""Numbers about pixels: sums for the statistics of a dataset, and hashes of images that look alike."""

__all__: list[str] = []
