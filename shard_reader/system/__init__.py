"""Memory, files and CPUs of this machine, and counters of the time that they take."""

__all__: list[str] = []
