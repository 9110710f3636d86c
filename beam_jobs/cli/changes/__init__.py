"""Commands and options that change a finished dataset: each makes a generation of it."""

__all__: list[str] = []
