"""Memory, files and CPUs of this machine."""

__all__: list[str] = []
