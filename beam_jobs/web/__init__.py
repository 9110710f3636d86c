"""Images from web servers: received within bounds, and asked for politely."""

__all__: list[str] = []
