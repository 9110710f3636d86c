"""Images as arrays: of NumPy and of records of one length in `plain`, of HDF5 in `hdf5`."""

__all__: list[str] = []
