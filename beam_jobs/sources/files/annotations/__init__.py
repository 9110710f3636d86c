"""What a record has beside its image: boxes and points, further images, and bytes."""

__all__: list[str] = []
