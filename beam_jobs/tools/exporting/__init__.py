"""A dataset as files that other programs read: folders of images, WebDataset, Parquet."""

__all__: list[str] = []
