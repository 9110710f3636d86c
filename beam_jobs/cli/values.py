"""Parsers for the values of options. Each raises an error of one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

from beam_jobs.options import MAX_SIDE, MaxRejects
from beam_jobs.sources.files.interface import SOURCES
from shard_reader.arguments import parse_bytes

__all__ = [
    "byte_size",
    "color",
    "dicom_window",
    "image_size",
    "integer",
    "max_rejects",
    "names",
    "source_kind",
    "split_parts",
]


def integer(low: int | None = None, high: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]+", text):
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
        value = int(text)
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"{low} to {high}" if high is not None else f"{low} or more"
            raise argparse.ArgumentTypeError(f"must be {bounds}, got {value}")
        return value

    return parse


def image_size(text: str) -> tuple[int, int | None]:
    """`256` is (256, None), `224x320` is (224, 320): width and height."""
    match = re.fullmatch(r"([0-9]+)(?:x([0-9]+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected N or WxH in pixels, as 256 or 224x320, got {text!r}")
    width, height = int(match[1]), int(match[2]) if match[2] else None
    if not all(1 <= side <= MAX_SIDE for side in (width, height or width)):
        raise argparse.ArgumentTypeError(f"must be 1 to {MAX_SIDE} pixels, got {text!r}")
    return width, height


def names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected names with commas between, each once, got {text!r}")
    return names


def source_kind(text: str) -> str:
    if text not in SOURCES and not re.fullmatch(r"[\w.]+:\w+", text):
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(SOURCES)}, or module:Class, got {text!r}")
    return text


def color(text: str) -> tuple[int, int, int]:
    """`255,128,0`, `#ff8000`, or a name of CSS."""
    if re.fullmatch(r"[0-9]{1,3}(,[0-9]{1,3}){2}", text) and max(map(int, text.split(","))) < 256:
        red, green, blue = map(int, text.split(","))
        return red, green, blue
    from PIL import ImageColor  # imported here, since few command lines name a colour

    try:
        red, green, blue = ImageColor.getcolor(text, "RGB")  # type: ignore[misc]  # of this mode
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected R,G,B from 0 to 255, #rrggbb or a name, got {text!r}") from None
    return red, green, blue


def split_parts(text: str) -> tuple[tuple[str, str], ...]:
    """Names and decimal fractions: `train=0.9,val=0.1`."""
    parts = [part.partition("=")[::2] for part in text.split(",")]
    for name, fraction in parts:
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise argparse.ArgumentTypeError(f"expected NAME=FRACTION,... as train=0.9,val=0.1, got {text!r}")
        if not re.fullmatch(r"[0-9]*\.?[0-9]+", fraction) or not 0 < Decimal(fraction) <= 1:
            raise argparse.ArgumentTypeError(f"the part of {name} must be above 0 and at most 1, got {fraction!r}")
    if len({name for name, _ in parts}) < len(parts):
        raise argparse.ArgumentTypeError(f"a name is there twice in {text!r}")
    # Sums of floats are not exact, and sums of Decimals round after 28 digits.
    total = sum(Fraction(fraction) for _, fraction in parts)
    if total != 1:
        raise argparse.ArgumentTypeError(f"the parts of {text!r} sum to {float(total)!r}, not to 1")
    # One spelling for each value, since the text is a part of the fingerprint: 0.90 and .9 are 0.9.
    return tuple((name, f"{Decimal(fraction).normalize():f}") for name, fraction in parts)


def dicom_window(text: str) -> str:
    """`default`, or the center and the width of a window, in one spelling."""
    if text == "default":
        return text
    number = r"-?[0-9]{1,9}(\.[0-9]{1,9})?"
    parts = text.split(",")
    if not re.fullmatch(f"{number},{number}", text) or float(parts[1]) <= 0:
        raise argparse.ArgumentTypeError(
            f"expected default, or CENTER,WIDTH as 40,400, with a width above 0: got {text!r}"
        )
    return ",".join(f"{float(part):g}" if float(part) == float(f"{float(part):g}") else part for part in parts)


def byte_size(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def max_rejects(text: str) -> MaxRejects:
    if re.fullmatch(r"[0-9]+", text):
        return MaxRejects(count=int(text))
    if re.fullmatch(r"[0-9]*\.[0-9]+", text) and float(text) <= 1:
        return MaxRejects(fraction=text)
    raise argparse.ArgumentTypeError(f"expected a count as 20 or a fraction as 0.01, got {text!r}")
