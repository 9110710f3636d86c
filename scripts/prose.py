"""Counts habits that make prose hard to read, per 1,000 words: `python scripts/prose.py [DIRECTORY]`."""

from __future__ import annotations

import ast
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

HABITS = {
    "what": r"\bwhat(?:ever)?\b",
    "who(ever)": r"\bwhoever\b|\bwho(?= \w+s\b)",
    "that which": r"\b(?:that|those|the ones?) which\b",
    "none is": r"\b(?:is|are|was|were|be) none\b",
    "behind": r"\bbehind\b",
    "of ours": r"\bof (?:ours|yours|theirs|its own kind)\b|\bours\b",
    "anew": r"\banew\b",
    "so that": r"\bso that\b",
}


def main(root: Path) -> None:
    """Print a row for each kind of text."""
    print(f"{'':12}{'words':>8}" + "".join(f"{name:>12}" for name in HABITS) + f"{'words/sentence':>16}")
    for name, texts in kinds(root).items():
        text = "\n\n".join(texts)
        words = len(re.findall(r"[A-Za-z][\w'-]*", text))
        if not words:
            continue
        rates = [1000 * len(re.findall(pattern, text, re.IGNORECASE)) / words for pattern in HABITS.values()]
        sentences = len(re.findall(r"[.!?:](?=\s|$)", text)) or 1
        print(f"{name:12}{words:>8}" + "".join(f"{rate:>12.2f}" for rate in rates) + f"{words / sentences:>16.1f}")


def kinds(root: Path) -> dict[str, list[str]]:
    """The texts of each kind."""
    sources = [path for top in ("beam_jobs", "shard_reader") for path in sorted((root / top).rglob("*.py"))]
    pages = [
        *root.glob("*.md"),
        *sorted((root / "docs").rglob("*.md")),
        *(root / "benchmarks").glob("*.md"),
    ]
    prose = [path for path in pages if path.name not in ("CHANGELOG.md", "command-line.md", "format.md")]
    strings = [text for path in sources for text in _strings(path)]
    return {
        "pages": [_without_code(path.read_text("utf-8")) for path in prose],
        "changelog": [(root / "CHANGELOG.md").read_text("utf-8")],
        "docstrings": [text for path in sources for text in _docstrings(path)],
        "comments": [text for path in sources for text in _comments(path)],
        "messages": strings,
    }


def _without_code(page: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", page, flags=re.DOTALL)


def _docstrings(path: Path) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield _without_code(text)


def _strings(path: Path) -> Iterator[str]:
    """Texts of help and errors: strings of four words and more that are no docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
        if is_text and len(node.value.split()) > 3:
            yield node.value


def _comments(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT and not re.match(r"# (fmt|noqa|type):", token.string):
                yield token.string.lstrip("# ")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]))
