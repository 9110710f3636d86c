"""Reading a JSON document, with a report of every problem and its path."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, TypeVar

from shard_reader.printable import excerpt, printable

__all__ = ["JsonObject"]

_MAX_COUNT: Final = 2**63 - 1  # JSON's integers have no bound, NumPy's int64 has

T = TypeVar("T")


class JsonObject:
    """A JSON object to read from. Values of the wrong type are noted as problems, with their path."""

    def __init__(self, value: Any, path: str, problems: list[str]) -> None:
        self.path, self.problems = path, problems
        self.value: dict[str, Any] = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            self.note(path, f"expected an object, got {_kind(value)}")

    def note(self, path: str, message: str) -> None:
        self.problems.append(printable(f"{path}: {message}"))

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if key else self.path

    def get(self, key: str, expected: type[T], empty: T) -> T:
        """The value of `key`, or `empty` and a problem."""
        path = self.at(key)
        if key not in self.value:
            self.note(path, "is missing")
            return empty
        value = self.value[key]
        # JSON has one kind of number: another program may write 1.0 as 1. And Python counts True as an int.
        if expected is float and type(value) is int and abs(value) <= _MAX_COUNT:
            value = float(value)
        if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
            self.note(path, f"expected {expected.__name__}, got {_kind(value)}")
            return empty
        return value

    def text(self, key: str, choices: tuple[str, ...] | None = None) -> str:
        value = self.get(key, str, "")
        if choices and key in self.value and isinstance(self.value[key], str) and value not in choices:
            self.note(self.at(key), f"expected one of {', '.join(choices)}, got {excerpt(value)}")
        return value

    def count(self, key: str) -> int:
        value = self.get(key, int, 0)
        if not 0 <= value <= _MAX_COUNT:
            problem = "must not be negative" if value < 0 else "is too large"
            self.note(self.at(key), f"{problem}, got {excerpt(value)}")
            return 0
        return value

    def counts(self, key: str) -> list[int]:
        """A list of counts."""
        values: list[Any] = self.get(key, list, [])
        # At once, since there may be a hundred thousand.
        if set(map(type, values)) <= {int} and 0 <= min(values, default=0) <= max(values, default=0) <= _MAX_COUNT:
            return values
        return list(self.sequence(key, lambda element: element.count("")))

    def texts(self, key: str) -> list[str]:
        """A list of texts."""
        values: list[Any] = self.get(key, list, [])
        return values if set(map(type, values)) <= {str} else list(self.sequence(key, lambda element: element.text("")))

    def child(self, key: str) -> JsonObject:
        return JsonObject(self.get(key, dict, {}), self.at(key), self.problems)

    def items(self, key: str, read: Callable[[JsonObject], T]) -> dict[str, T]:
        child = self.child(key)
        return {k: read(JsonObject(v, f"{child.path}.{k}", self.problems)) for k, v in child.value.items()}

    def sequence(self, key: str, read: Callable[[JsonObject], T]) -> tuple[T, ...]:
        """The list at `key`, each element read as the object `{"": element}`."""
        path = self.at(key)
        values = self.get(key, list, [])
        return tuple(read(JsonObject({"": v}, f"{path}[{i}]", self.problems)) for i, v in enumerate(values))


def _kind(value: Any) -> str:
    try:
        return f"{type(value).__name__} {json.dumps(value)[:40]}"
    except (RecursionError, ValueError):  # nested too deeply; an integer of thousands of digits
        return excerpt(value)
