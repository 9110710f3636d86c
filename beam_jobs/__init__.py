"""Beam jobs that turn raw images into the datasets that `shard_reader` streams."""

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """The version, which is the reader's, when it is asked for: the command sees Ctrl-C before NumPy is loaded."""
    if name == "__version__":
        from shard_reader import __version__

        return __version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
