"""What a model learns from: boxes, points, outlines, masks and depth maps, moved with the pixels of their image."""

__all__: list[str] = []
