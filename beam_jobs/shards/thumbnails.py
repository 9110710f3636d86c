"""Small pictures of a few images of a shard, before and after: of rejects, suspects, and images that were changed."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import threading
from collections.abc import Iterable
from itertools import zip_longest
from typing import Final

import numpy as np
import simplejpeg
from PIL import Image

from beam_jobs.images.decode import image_formats, to_8_bits
from beam_jobs.images.files.work import check_file, check_image
from beam_jobs.options import ImageOptions
from beam_jobs.sources.files.interface import Pixels, Thumbnail

__all__ = ["MOST_THUMBNAILS", "Thumbnails", "chosen", "id_key", "share_of"]

MOST_THUMBNAILS: Final = 64
"""The most of rejects and suspects in a dataset, and the most of all others."""
_SIDE = 160  # pixels of the longer side
_QUALITY = 80
_OF_KIND = {"reject": MOST_THUMBNAILS, "suspect": MOST_THUMBNAILS, "change": 16, "usual": 16}  # the most in a shard
_CANDIDATES = 64 * MOST_THUMBNAILS  # of a dataset, so that rare kinds are among them


def id_key(id: str) -> int:
    """A number of 64 bits by which a few ids of many are chosen: the same on every run."""
    return int.from_bytes(hashlib.blake2b(id.encode("utf-8", "surrogateescape"), digest_size=8).digest())


def share_of(inputs: int) -> int:
    """The bound on `id_key` of the candidates among a number of inputs."""
    return (1 << 64) * _CANDIDATES // max(inputs, _CANDIDATES)


class Thumbnails:
    """The thumbnails of one shard: of each kind the images with the lowest `id_key`.

    Threads may offer images at the same time, in any order.

    Args:
        share: the bound on `id_key` for stored images. Of each reason of a reject, the lowest is kept in any case.
        split: the split of the shard.
    """

    def __init__(self, share: int, split: str) -> None:
        self._share, self._split = share, split
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], dict[int, Thumbnail]] = {}

    def offer(self, id: str, changes: Iterable[str], suspect: str, before: Pixels, after: Pixels) -> None:
        """Offer a stored image: its upright pixels, and those that are encoded."""
        key = id_key(id)
        kinds = [("change", kind) for kind in changes] or [("usual", "")]
        wanted = [kind for kind in kinds if key < self._share and self._wants(kind, key)]
        if suspect and self._wants(("suspect", ""), key):
            wanted.append(("suspect", ""))
        if wanted:
            pair = _encoded(before), _encoded(after)
            for group, reason in wanted:
                said = suspect if group == "suspect" else reason
                self._keep((group, reason), key, Thumbnail(id, self._split, group, said, *pair))

    def offer_reject(self, id: str, reason: str, data: bytes | Pixels, options: ImageOptions) -> None:
        """Offer an input that is rejected. It gets a thumbnail if any of its pixels can be decoded."""
        key = id_key(id)
        if not self._wants(("reject", reason), key):
            return
        pixels = _some_pixels(data, options)
        if pixels is not None:
            self._keep(("reject", reason), key, Thumbnail(id, None, "reject", reason, _encoded(pixels), None))

    def kept(self) -> list[tuple[int, Thumbnail]]:
        """The thumbnails with their keys, by kind and key."""
        return [pair for kind in sorted(self._kept) for pair in sorted(self._kept[kind].items())]

    def _wants(self, kind: tuple[str, str], key: int) -> bool:
        kept = self._kept.get(kind, {})
        most = _OF_KIND[kind[0]] if key < self._share else 1
        return len(kept) < most or key < max(kept)

    def _keep(self, kind: tuple[str, str], key: int, thumbnail: Thumbnail) -> None:
        with self._lock:
            kept = self._kept.setdefault(kind, {})
            kept[key] = thumbnail
            if len(kept) > _OF_KIND[kind[0]]:
                del kept[max(kept)]


def chosen(candidates: Iterable[tuple[int, Thumbnail]]) -> list[Thumbnail]:
    """The thumbnails of a dataset among those of its shards: of each kind the lowest key, then the next, and so on."""
    kinds: dict[tuple[str, str], dict[int, Thumbnail]] = {}
    for key, thumbnail in candidates:
        group = thumbnail.group
        kept = kinds.setdefault((group, "" if group == "suspect" else thumbnail.reason), {})
        kept[key] = thumbnail
        if len(kept) > MOST_THUMBNAILS:
            del kept[max(kept)]
    bad = {kind: kept for kind, kept in kinds.items() if kind[0] in ("reject", "suspect")}
    good = {kind: kept for kind, kept in kinds.items() if kind not in bad}
    return [*_in_turns(bad), *_in_turns(good)]


def _in_turns(kinds: dict[tuple[str, str], dict[int, Thumbnail]]) -> list[Thumbnail]:
    """At most `MOST_THUMBNAILS`, one of each kind in turn; sorted by kind and key."""
    columns = [[(kind, key, kinds[kind][key]) for key in sorted(kinds[kind])] for kind in sorted(kinds)]
    turns = [found for row in zip_longest(*columns) for found in row if found is not None]
    return [thumbnail for _, _, thumbnail in sorted(turns[:MOST_THUMBNAILS], key=lambda found: found[:2])]


def _encoded(pixels: Pixels) -> str:
    """A small JPEG of pixels, `[height, width, 1, 3 or 4]`, uint8 or uint16, in base64."""
    small = _shrunk(to_8_bits(pixels))
    if small.shape[2] == 4:
        rgba = Image.fromarray(small)
        small = np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
    colours = "GRAY" if small.shape[2] == 1 else "RGB"
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(small), _QUALITY, colours, "420")
    return base64.b64encode(data).decode()


def _shrunk(pixels: Pixels) -> Pixels:
    """Pixels of which no side is longer than that of a thumbnail."""
    height, width, channels = pixels.shape
    longest = max(height, width)
    if longest <= _SIDE:
        return pixels
    size = (max(1, width * _SIDE // longest), max(1, height * _SIDE // longest))
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    # Reduced by a whole number first, which is fast, and to no less than twice the size, which keeps it sharp.
    small = np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))
    return small[..., None] if channels == 1 else small


def _some_pixels(data: bytes | Pixels, options: ImageOptions) -> Pixels | None:
    """Pixels of an input that cannot be used, as far as they can be decoded; None if there are none."""
    if not isinstance(data, bytes):
        return None
    try:
        check_file(data, options.max_work)
        return _from_jpeg(data, options) if data.startswith(b"\xff\xd8") else _from_other(data, options)
    # The input has its reason already. A picture of it is worth a try, and decoders raise errors of all classes.
    except Exception:
        return None


def _from_jpeg(data: bytes, options: ImageOptions) -> Pixels | None:
    height, width = simplejpeg.decode_jpeg_header(data, strict=False)[:2]
    if height * width > options.max_pixels:
        return None
    pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=_SIDE, min_width=_SIDE, strict=False)
    return pixels


def _from_other(data: bytes, options: ImageOptions) -> Pixels | None:
    with Image.open(io.BytesIO(data), formats=image_formats()) as image:
        if image.width * image.height > options.max_pixels:
            return None
        check_image(image, options.max_work)
        with contextlib.suppress(OSError, SyntaxError):
            image.load()
        image.tile = []  # nothing is left to load: the pixels before the damage are there
        return np.asarray(image.convert("RGB"))
