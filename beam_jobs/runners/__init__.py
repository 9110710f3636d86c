"""Where the pipeline runs: processes of this machine, or an engine."""

__all__: list[str] = []
