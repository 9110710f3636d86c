"""Meaning from names: folders of classes and splits, masks beside images, and the members of one sample."""

__all__: list[str] = []
