"""TFRecord files that other programs wrote: indexed where they are, as a dataset."""

__all__: list[str] = []
