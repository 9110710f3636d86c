"""The parts of `join`: what datasets have in common, where they lie, and the numbers of their classes."""

__all__: list[str] = []
