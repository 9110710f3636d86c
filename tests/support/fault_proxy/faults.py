"""What can be wrong with answers, and how often."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

__all__ = ["BODY_FAULTS", "FAULTS", "Faults", "Request", "kind_of"]

# What can be wrong with an answer's body; only answers with status 200 or 206 that have one get these.
BODY_FAULTS = ("cuts", "truncations", "corruptions", "stalls", "whole")
FAULTS = ("errors", "resets", "lost", "missing", "forbidden", *BODY_FAULTS)
LISTS = {"list-type", "prefix", "delimiter", "marker", "max-keys", "uploads", "versions", "location", "versioning"}


@dataclass
class Request:
    """A request and what became of it.

    `status` is 0 where the client was given none (yet), `sent` counts bytes of the body; both are up to date when the
    client has the end of an answer. `path` is without the query that `target` has.
    """

    method: str
    target: str
    range: str | None
    number: int  # how many requests with this method, target and range came before
    status: int = 0
    sent: int = 0
    fault: str | None = None

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def kind(self) -> str:
        return kind_of(self.method, self.target)


@dataclass(frozen=True)
class Faults:
    """How often requests fail, each in at most one way: parts of 1. The counts have the same names.

    errors       answered with one of `statuses`, as S3 does, and `retry_after` seconds to wait if that is not None
    resets       connection reset; the store never hears of it
    lost         the store has done it, but the connection is reset before the answer
    missing      404, once for each path      forbidden    403, once for each path
    cuts         the connection is closed in the middle of the body, short of what was promised
    truncations  the body and what the header says of its length end early, in agreement
    corruptions  a byte of the body is another one, in paths in which `corrupt_paths` (a regular expression) is found
    stalls       after a part of the body nothing comes for `stall_seconds`, then the rest
    whole        a range is answered with 200 and the whole object. If the store refuses this, as it does where the
                 signature includes the range, the request is answered as usual, and not counted

    `limit`: the same request (method, target, range) fails so often at most. `latency`: seconds before each answer.
    `bandwidth`: bytes per second of each connection. `script` decides in place of the rates: it is given the request,
    in the proxy's thread, and returns the name of a fault or None; what it raises is raised when the proxy ends.
    """

    errors: float = 0.0
    resets: float = 0.0
    lost: float = 0.0
    missing: float = 0.0
    forbidden: float = 0.0
    cuts: float = 0.0
    truncations: float = 0.0
    corruptions: float = 0.0
    stalls: float = 0.0
    whole: float = 0.0
    statuses: tuple[int, ...] = (503,)
    retry_after: int | None = None
    corrupt_paths: str = ""
    stall_seconds: float = 5.0
    limit: int | None = None
    latency: float = 0.0
    bandwidth: float | None = None
    script: Callable[[Request], str | None] | None = None

    def __post_init__(self) -> None:
        if min(self.weights[:-1]) < 0 or sum(self.weights[:-1]) > 1 + 1e-9:
            raise ValueError(f"rates must be parts of 1, and 1 at most together: {self}")

    @property
    def weights(self) -> list[float]:
        """The rates of FAULTS, and that of no fault."""
        rates: list[float] = [getattr(self, name) for name in FAULTS]
        return [*rates, max(0.0, 1 - sum(rates))]


def kind_of(method: str, target: str) -> str:
    """ "get" reads an object, "list" a listing or a bucket; "head" also metadata by GCS's JSON; else the method."""
    url = urlsplit(target)
    if method != "GET":
        return method.lower()
    if re.fullmatch(r".*/|/storage/v1/b(/[^/]+(/o)?)?", url.path) or LISTS & parse_qs(url.query, True).keys():
        return "list"
    return "head" if url.path.startswith("/storage/v1/b/") and "alt=media" not in url.query else "get"
