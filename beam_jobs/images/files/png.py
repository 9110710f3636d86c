"""PNG files without their optional chunks: pixels need none of them but tRNS.

```
signature (8 bytes) | length (uint32) | kind (4 bytes) | data | CRC-32 (uint32) | length ...
```

Source: Portable Network Graphics (PNG) Specification, third edition, sections 5.3 and 11.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

__all__ = ["SIGNATURE", "simpler", "without_animation"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")


def simpler(data: bytes) -> Iterator[bytes]:
    """A PNG file with fewer and fewer optional chunks: without texts, then with those alone that pixels need."""
    yield _filtered(data, lambda kind: kind not in _TEXTS)
    yield _filtered(data, lambda kind: kind[:1].isupper() or kind == b"tRNS")


def without_animation(data: bytes) -> bytes:
    """An animated PNG file as the still image that other programs show, of the same bytes otherwise."""
    return _filtered(data, lambda kind: kind not in _ANIMATION)


def _filtered(data: bytes, keep: Callable[[bytes], bool]) -> bytes:
    parts, position = [data[:8]], 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if keep(kind):
            parts.append(data[position:end])
        position = end
    return b"".join(parts)
