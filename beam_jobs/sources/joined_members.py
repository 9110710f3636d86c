"""The members of an archive by their keys, joined on disk, with links followed and replaced members gone."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from beam_jobs.external_sort import Spill
from beam_jobs.sources.files.interface import Problem
from beam_jobs.sources.files.members import Member
from shard_reader.printable import printable

__all__ = ["Joined"]

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
