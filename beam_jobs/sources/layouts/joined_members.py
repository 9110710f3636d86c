"""The members of an archive by their keys, joined on disk, with links followed and replaced members gone.

Also the values in members that are texts.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from beam_jobs.external_sort import Spill
from beam_jobs.sources.files.interface import BadInput, Problem
from beam_jobs.sources.files.members import Member
from beam_jobs.sources.files.tables.json_lists import is_too_deep
from shard_reader.printable import printable

__all__ = ["Joined", "json_object", "refuse_nested", "text_of"]

_BUCKETS = 64  # few, since there is a spill for each of maybe thousands of archives


class Joined:
    """The members of an archive by their keys, wherever they lie in it. Links get the place of their targets.

    Of several members with one path, the last counts, as where an archive is unpacked.

    Args:
        members: the members, in order.
        key: a function that gives the key of a member's path.
        path: a function that normalizes a member's path.
        folder: an empty folder for the members, which its owner removes.
    """

    def __init__(
        self, members: Iterable[Member], key: Callable[[str], str], path: Callable[[str], str], folder: Path
    ) -> None:
        self._key, self._path = key, path
        self._plain, self._links, self._linked = (self._spill(folder / name) for name in ("plain", "links", "linked"))
        self.replaced = 0  # members that a later one replaces, once the iteration has ended
        any_link = False
        for number, member in enumerate(members):
            any_link = any_link or bool(member.link)
            self._add(self._links if member.link else self._plain, member.link or member.name, number, member)
        if any_link:
            self._follow()

    def __iter__(self) -> Iterator[list[Member]]:
        """The members of each key."""
        self.replaced = 0
        lines = heapq.merge(self._plain.lines(), self._linked.lines())
        for _, of_key in itertools.groupby(lines, lambda line: line[:32]):
            yield [self._last(list(of_path)) for _, of_path in itertools.groupby(of_key, lambda line: line[:64])]

    def _last(self, lines: list[bytes]) -> Member:
        self.replaced += len(lines) - 1
        return _parsed(lines[-1])

    def _follow(self) -> None:
        """Give each link the place of the file before it that it names."""
        target, target_path = Member("", 0, []), b""
        for line in heapq.merge(self._plain.lines(), self._links.lines()):
            member = _parsed(line)
            if not member.link:
                target, target_path = member, line[:64]
                continue
            missing = Problem("not-a-file", f"is a link to {printable(member.link)}, which is not before it")
            found = target if target_path == line[:64] else Member("", 0, [], missing)
            linked = Member(member.name, found.size, found.place, member.problem or found.problem)
            self._add(self._linked, member.name, int(line[64:76], 16), linked)

    def _add(self, spill: Spill, name: str, number: int, member: Member) -> None:
        path = self._path(name)
        key = _hashed(self._key(path))
        line = f"{key.hex()}{_hashed(path).hex()}{number:012x}{json.dumps(member)}"
        spill.add_line(key, line.encode())

    @staticmethod
    def _spill(folder: Path) -> Spill:
        folder.mkdir()
        return Spill(folder, _BUCKETS)


def _hashed(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _parsed(line: bytes) -> Member:
    name, size, place, problem, link = json.loads(line[76:])
    return Member(name, size, place, Problem(*problem) if problem else None, link)


def text_of(kind: str, data: bytes) -> str:
    """The text of a member.

    Raises:
        BadInput: it is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"bad-{kind}", f"its .{kind} is not UTF-8 at byte {error.start}") from error


def json_object(text: str) -> dict[str, Any]:
    """The object in a text.

    Raises:
        BadInput: it is no object of JSON, or nests too deeply.
    """
    if is_too_deep(text):
        raise BadInput("bad-json", "its .json nests lists and objects too deeply")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput("bad-json", f"its .json is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise BadInput("bad-json", f"its .json is no object but {text.strip()[:40]!r}")
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadInput("bad-json", f"its .json has half of a surrogate pair ({error.object[error.start]!r})") from error
    return values


def refuse_nested(values: Mapping[str, Any]) -> None:
    """Refuse values that no field can hold.

    Raises:
        BadInput: a value is an object, or a list of lists or objects.
    """
    for name, value in values.items():
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict | list) for v in value)):
            raise BadInput(
                "bad-json",
                f"its .json has {name} nested: values are numbers, texts, and lists of them;"
                " leave it out with --fields",
            )
