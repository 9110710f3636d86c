"""Datasets that change: each change is a generation, and files of earlier ones are never rewritten."""

__all__: list[str] = []
