"""Transforms of other libraries, as they are: torchvision, Albumentations, Keras and Pillow."""

__all__: list[str] = []
