"""Shared parts of the adapters for TensorFlow, Keras, PyTorch and JAX."""

__all__: list[str] = []
