"""Facts about image files that their decoders do not tell: damage, planes and pages, broken metadata, other formats."""

__all__: list[str] = []
