"""The text of a report, section by section, as somebody reads it who has no browser."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

_BLOCKS = ("dd", "div", "dt", "figure", "li", "p", "td", "th")


class _Sections(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self._names = [""]
        self._skipped = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self._names.append(dict(attributes)["id"] or "")
        self._skipped += tag in ("style", "script")
        if tag in _BLOCKS:
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self._names.pop()
        self._skipped -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            name = self._names[-1]
            self.sections[name] = self.sections.get(name, "") + data


def sections(report: Path | bytes) -> dict[str, str]:
    """The text of each section by its id, words with one space between; outside of sections by ""."""
    parser = _Sections()
    parser.feed((report if isinstance(report, bytes) else report.read_bytes()).decode())
    return {name: " ".join(text.split()) for name, text in parser.sections.items()}
