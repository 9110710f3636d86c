"""TFRecord files that other programs wrote: their splits, their features, and the fields of a dataset from them."""

__all__: list[str] = []
