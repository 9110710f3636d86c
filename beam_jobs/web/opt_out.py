"""Owners who do not want their images in datasets: headers of an answer, and robots.txt."""

from __future__ import annotations

import functools
import hashlib
import urllib.robotparser
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from beam_jobs.web.hosts import Hosts
from shard_reader.storage.directory import Directory
from shard_reader.storage.secrets import host_of

__all__ = ["ROBOTS_BYTES", "Robots", "opted_out"]

ROBOTS_BYTES = 500 << 10
"""The bytes of a robots.txt that are read, as RFC 9309, section 2.5, asks for."""
# The directives that img2dataset takes for an opt-out by default. "none" is short for "noindex, nofollow".
_DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
# Directives with a value after a colon, which is otherwise the sign of a robot's name before directives.
_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def opted_out(robots: Iterable[str], reservation: Iterable[str], agent: str) -> str:
    """The header by which the owner of an image opts out of datasets; empty without one.

    Args:
        robots: the values of the headers X-Robots-Tag.
        reservation: the values of the headers TDM-Reservation (W3C's TDM Reservation Protocol).
        agent: the name of this program, in lower case: directives for other robots are not for it.
    """
    for value in robots:
        robot = ""
        for part in value.lower().split(","):
            name, colon, directive = part.partition(":")
            if colon and name.strip() not in _WITH_VALUE:
                robot = name.strip()
            found = (directive if colon else name).strip()
            if found in _DIRECTIVES and robot in ("", "*", agent):
                return f"X-Robots-Tag: {found}"
    return "TDM-Reservation: 1" if any(value.strip() == "1" for value in reservation) else ""


class Robots:
    """The robots.txt of hosts. Each is fetched once, and kept in a directory for later runs of the same job.

    Args:
        kept: the directory.
        fetch: gives the file at a URL; empty if the server has no such file.
        hosts: turns, so that one thread or process fetches it.
        agent: the name of this program.
    """

    def __init__(self, kept: Directory, fetch: Callable[[str], bytes], hosts: Hosts, agent: str) -> None:
        self._kept, self._fetch, self._hosts, self._agent = kept, fetch, hosts, agent
        self._rules = functools.lru_cache(256)(self._load)

    def allows(self, url: str) -> bool:
        """Whether the robots.txt of a URL's host lets this program fetch it."""
        return self._rules(f"{urlsplit(url).scheme}://{host_of(url)}").can_fetch(self._agent, url)

    def _load(self, origin: str) -> urllib.robotparser.RobotFileParser:
        url = f"{origin}/robots.txt"
        name = f"robots-{hashlib.sha256(origin.encode()).hexdigest()[:32]}.txt"
        with self._hosts.turn(url, 1):
            try:
                text = self._kept.read(name)
            except FileNotFoundError:
                text = self._keep(name, self._fetch(url))
        rules = urllib.robotparser.RobotFileParser(url)
        rules.parse(text.decode("utf-8", "replace").splitlines())
        return rules

    def _keep(self, name: str, text: bytes) -> bytes:
        """Keep a file, unless another machine has kept one meanwhile. The one that is kept counts."""
        try:
            if self._kept.put_if(name, text, None) is not None:
                return text
        except NotImplementedError:
            self._kept.write(name, [text])
        return self._kept.read(name)
