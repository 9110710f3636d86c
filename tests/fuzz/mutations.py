"""Inputs near to given ones, for hypothesis."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

__all__ = ["mutations"]

_INTERESTING = [
    b"\0",
    b"\xff",
    b"\x7f" + b"\xff" * 7,
    b"\xff" * 8,
    b"\0" * 8,
    b'"',
    b"{",
    b"[" * 2000,
    b"-1",
    b"1e999",
    b"\x1b[",
]


def mutations(inputs: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of the inputs with a few bytes replaced, removed or inserted."""
    pieces = st.one_of(st.binary(max_size=8), st.sampled_from(_INTERESTING))
    edits = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 16), pieces), min_size=1, max_size=6)
    return st.builds(_edited, st.sampled_from(list(inputs)), edits)


def _edited(data: bytes, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    for place, removed, piece in edits:
        start = place % (len(data) + 1)
        data = data[:start] + piece + data[start + removed :]
    return data
