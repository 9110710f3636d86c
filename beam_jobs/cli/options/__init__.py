"""The groups of options of `prepare` that are not in `cli/prepare.py`."""

__all__: list[str] = []
