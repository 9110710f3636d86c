"""Commands on a finished dataset, as functions. They import no Beam, no writer and no options of `prepare`."""

__all__: list[str] = []
