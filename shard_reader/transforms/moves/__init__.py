"""The geometry of transforms: parts, mirrors and affine maps, for pixels, masks, boxes and points."""

__all__: list[str] = []
