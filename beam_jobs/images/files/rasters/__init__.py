"""Files of measured values, as of satellites and scanners: bands, floats, and other numbers than 8-bit colours."""

__all__: list[str] = []
