"""Lists in a JSON file that can be larger than memory."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from typing import Any

from shard_reader.storage.directory import Directory

__all__ = ["JsonLists", "is_too_deep"]

_PIECE = 1 << 16  # bytes of JSON at a time
_TAIL = re.compile(rb"[\\A-Za-z-]{1,64}\Z")  # may be the beginning of an escape, or of a NaN
_NANS = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\Z)|-?\b(?:NaN|Infinity)\b', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DEEPEST = 200  # levels of lists and objects, which take memory by the square of their number, and recursion
_ESCAPES = re.compile(rb"\\.", re.DOTALL)


class _Depth:
    """The depth of JSON at the end of its last piece."""

    def __init__(self) -> None:
        self._level = 0

    def fits(self, piece: bytes) -> bool:
        """Whether a further piece, without its texts, nests no deeper than may be."""
        brackets, most = piece.translate(None, _NOT_BRACKETS), 0
        # Each round takes away the innermost pairs: so many rounds, so many levels.
        while b"[]" in brackets or b"{}" in brackets:
            brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
            most += 1
            if most > _DEEPEST:
                return False
        opened = brackets.count(b"[") + brackets.count(b"{")
        self._level = max(0, self._level - len(brackets) + opened) + opened
        return self._level + most <= _DEEPEST


def is_too_deep(text: str) -> bool:
    """Whether JSON nests lists and objects deeper than any data do."""
    if text.count("[") + text.count("{") <= _DEEPEST:
        return False
    data = text.encode("utf-8", "surrogatepass")
    return not _Depth().fits(b"".join((_ESCAPES.sub(b"", data) if b"\\" in data else data).split(b'"')[::2]))


class JsonLists:
    """The lists of one file. NaN and infinities, which Python writes and JSON does not have, are null."""

    def __init__(self, directory: Directory, name: str) -> None:
        self._directory, self._name = directory, name
        self.nans = 0
        """The number of NaN and infinities that were read."""

    def items(self, *keys: str) -> Iterator[tuple[str, Any]]:
        """Every element of the lists with these keys, with its key; "" for a file that is a list.

        Raises:
            ValueError: the file is damaged. The message says where.
        """
        import ijson

        # Each parser gets each piece: one that reads all lists would give events, whose objects would then have to be
        # built in Python, at a fraction of the speed.
        found: dict[str, list[Any]] = {key: ijson.sendable_list() for key in keys}
        prefixes = {key: f"{key}.item" if key else "item" for key in keys}
        parsers = [ijson.items_coro(list_, prefixes[key], use_float=True) for key, list_ in found.items()]
        good = self.nans = 0
        try:
            for piece in self._pieces():
                for parser in parsers:
                    parser.send(piece)
                good += len(piece)
                for key, items in found.items():
                    yield from ((key, item) for item in items)
                    items.clear()
            for parser in parsers:
                parser.close()
        except ijson.JSONError as error:
            raise ValueError(self._damage(good)) from error

    def keys(self) -> Sequence[str]:
        """The sorted keys of the file's object."""
        import ijson

        events = ijson.sendable_list()
        parser, found = ijson.parse_coro(events), set[str]()
        for piece in self._pieces():
            parser.send(piece)
            found |= {value for prefix, event, value in events if not prefix and event == "map_key"}
            events.clear()
        return sorted(found)

    def _damage(self, good: int) -> str:
        """The byte at which the JSON ends or is damaged; the first `good` bytes are JSON."""
        # The fast parser does not tell the place: the file is read again, the last piece byte by byte.
        import ijson

        parser = ijson.basic_parse_coro(ijson.sendable_list())
        position = 0
        try:
            for piece in self._pieces():
                if position + len(piece) <= good:
                    parser.send(piece)
                    position += len(piece)
                    continue
                for byte in piece:
                    parser.send(bytes([byte]))
                    position += 1
            parser.close()
        except ijson.JSONError as error:
            if "EOF" not in str(error):
                return f"is no JSON: byte {position + 1} cannot be there"
            return f"ends at byte {position}, in the middle of its JSON; copy it again, whole"
        return "holds a number that is too large, beyond 64 bits"

    def _pieces(self) -> Iterator[bytes]:
        """The bytes of the file, with null for NaN and infinities."""
        in_text, rest = False, b""
        depth = _Depth()
        for piece in self._file_pieces():
            piece = rest + piece
            tail = _TAIL.search(piece)
            end = tail.start() if tail else len(piece)
            piece, rest = piece[:end], piece[end:]
            texts = (_ESCAPES.sub(b"", piece) if b"\\" in piece else piece).split(b'"')
            if not depth.fits(b"".join(texts[in_text::2])):
                raise ValueError(f"nests lists and objects more than {_DEEPEST} levels deep")
            if b"NaN" in piece or b"Infinity" in piece:
                piece = _NANS.sub(self._null, b'"' * in_text + piece)[in_text:]
            in_text ^= len(texts) % 2 == 0
            if piece:  # an empty piece would end the parser
                yield piece
        if rest:
            yield _NANS.sub(self._null, rest)

    def _null(self, match: re.Match[bytes]) -> bytes:
        if match[0].startswith(b'"'):
            return match[0]
        self.nans += 1
        return b"null"

    def _file_pieces(self) -> Iterator[bytes]:
        with self._directory.open(self._name) as file:
            piece = file.read(_PIECE).removeprefix(codecs.BOM_UTF8)
            while piece:
                yield piece
                piece = file.read(_PIECE)
