"""The stores' libraries behind fsspec: bounds, retries and conditions that fsspec has no option for."""

__all__: list[str] = []
