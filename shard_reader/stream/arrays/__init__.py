"""Parts of a batch's arrays: the places of its records, the threads that make it, lists and their moves."""

__all__: list[str] = []
