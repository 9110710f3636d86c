"""Text that others wrote, made safe to print."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from shard_reader.printable import excerpt, printable, printable_json, printable_lines

ANY = st.text(st.characters(codec=None, categories=None) | st.sampled_from("\n\r\x1b\x9b\u202e\ud800\\\"'"))


@given(ANY)
def test_a_name_is_on_one_line_and_is_safe_to_escape_twice(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and printable(shown) == shown
    assert shown == text or not text.isprintable()


@given(ANY)
def test_lines_stay_lines(text: str) -> None:
    shown = printable_lines(text)
    assert shown.count("\n") == text.count("\n") and all(line.isprintable() for line in shown.split("\n"))


@given(ANY)
def test_json_stays_the_same_json(text: str) -> None:
    shown = printable_json(json.dumps({text: [text]}, indent=1, ensure_ascii=False))
    assert json.loads(shown) == {text: [text]} and all(line.isprintable() for line in shown.split("\n"))


@given(ANY)
def test_an_excerpt_is_short(text: str) -> None:
    assert len(excerpt(text * 100, 50)) <= 53 and excerpt(text * 100, 50).isprintable()


def test_an_excerpt_is_of_anything() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert excerpt(deep) == "a value of type list that cannot be shown"
    assert excerpt(10**5000) == "a value of type int that cannot be shown"
    assert excerpt({"a": "\x1b"}) == r"{'a': '\x1b'}"
