"""Ids in texts: those of withdrawn records, in lists, tables and pages."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray

__all__ = ["Mentions", "mentions_in_parts"]

_MOST: Final = 1 << 22  # ids that are looked for together, in 64 MiB
_SHORTEST: Final = 4  # bytes of an id that is looked for inside of longer texts
# A word of a path, of a name or of a sentence. A dot ends it only where no word follows.
_CHARACTER: Final = rb"[0-9A-Za-z_/\x80-\xff-]"
_WORD: Final = re.compile(_CHARACTER + rb"+(?:\.+" + _CHARACTER + rb"+)*")
_INSIDE: Final = re.compile(_CHARACTER + rb"\.*" + _CHARACTER)


class Mentions:
    """Finds ids in texts: as a whole text, or as whole words of a longer one.

    Memory has 16 bytes for each id: the hashes of the id and of its first word. Ids of fewer than four bytes, and those
    of digits alone, are found as a whole text only: any count would be one of them.

    Args:
        ids: the ids, in UTF-8.
        roots: places of inputs. A text that begins with one of them and a slash has an id after it.
    """

    def __init__(self, ids: Iterable[bytes], roots: Sequence[str] = ()) -> None:
        self._roots = [f"{root.rstrip('/')}/".encode() for root in roots if root]
        whole, words, shapes = array("Q"), array("Q"), set[tuple[int, int]]()
        for id in ids:
            whole.append(xxhash.xxh3_64_intdigest(id))
            word = _WORD.search(id)
            if word is not None and len(id) >= _SHORTEST and not id.isdigit():
                words.append(xxhash.xxh3_64_intdigest(word[0]))
                shapes.add((word.start(), len(id)))
        self._ids, self._words = _sorted(whole), _sorted(words)
        self._shapes = sorted(shapes)

    def __len__(self) -> int:
        return len(self._ids)

    def are_ids(self, texts: Sequence[bytes]) -> NDArray[np.bool_]:
        """Whether each text is an id, bool `[n]`."""
        return _contains(self._ids, [xxhash.xxh3_64_intdigest(text) for text in texts])

    def contain(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether each XXH3-64 is that of an id, bool `[n]`."""
        return _contains(self._ids, hashes)

    def find(self, texts: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """The number of each text that is or has an id, and that id: at most one for each text."""
        found = {int(number): texts[int(number)] for number in np.flatnonzero(self.are_ids(texts))}
        shown = [self._without_roots(text) for text in texts]
        places = [(number, word) for number, text in enumerate(shown) for word in _WORD.finditer(text)]
        begun = _contains(self._words, [xxhash.xxh3_64_intdigest(word[0]) for _, word in places])
        for place in np.flatnonzero(begun).tolist():
            number, word = places[place]
            if number not in found and (id := self._id_at(shown[number], word.start())) is not None:
                found[number] = id
        return sorted(found.items())

    def _without_roots(self, text: bytes) -> bytes:
        for root in self._roots:
            text = text.replace(root, b" ")
        return text

    def _id_at(self, text: bytes, word: int) -> bytes | None:
        """The id whose first word begins at a place of a text."""
        for before, length in self._shapes:
            start, end = word - before, word - before + length
            if start < 0 or end > len(text) or _INSIDE.match(text, end - 1):
                continue
            id = text[start:end]
            if self.are_ids([id])[0]:
                return id
        return None


def mentions_in_parts(ids: Iterable[bytes], roots: Sequence[str] = (), most: int = _MOST) -> Iterable[Mentions]:
    """The ids in parts of `most`, each of which is looked for on its own: memory does not grow with their number."""
    left = iter(ids)
    while len(found := Mentions(islice(left, most), roots)):
        yield found


def _sorted(hashes: array[int]) -> NDArray[np.uint64]:
    return np.unique(np.frombuffer(hashes, np.uint64)) if hashes else np.empty(0, np.uint64)


def _contains(known: NDArray[np.uint64], hashes: Sequence[int] | NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each hash is among the sorted ones, bool `[n]`."""
    values = np.asarray(hashes, np.uint64)
    if not len(known):
        return np.zeros(len(values), np.bool_)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.asarray(known[places] == values)
