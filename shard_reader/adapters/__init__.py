"""What the adapters for TensorFlow, Keras, PyTorch and JAX share."""

__all__: list[str] = []
