"""Text that is safe to print: names, ids and messages that others wrote cannot steer a terminal or forge a line."""

from __future__ import annotations

from typing import Any

__all__ = ["excerpt", "printable", "printable_json", "printable_lines"]

_LONGEST = 200

# Not printable are control characters, line breaks, marks that turn the direction of text, and halves of surrogate
# pairs, which stand for undecodable bytes. A backslash stays one, so that a text may go through here twice.


def printable(text: str) -> str:
    """A text on one line of a terminal: what is not printable becomes an escape."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def printable_lines(text: str) -> str:
    """A text of several lines, with escapes for all that is not printable but the line breaks."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    """A text of JSON whose strings have JSON's escapes for all that is not printable."""
    lines = text.split("\n")
    return "\n".join(line if line.isprintable() else "".join(map(_json_escaped, line)) for line in lines)


def excerpt(value: Any, most: int = _LONGEST) -> str:
    """The beginning of a value as Python writes it, on one line, for messages. It may be of any size and depth."""
    try:
        text = repr(value[:most] if isinstance(value, str) else value)
    except (RecursionError, ValueError):  # nested too deeply; an integer of thousands of digits
        return f"a value of type {type(value).__name__} that cannot be shown"
    return text if len(text) <= most else f"{text[:most]}..."


def _escaped(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


def _json_escaped(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))
