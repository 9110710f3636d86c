"""Records for people: overviews, galleries, thumbnails, and tables of their values."""

__all__: list[str] = []
