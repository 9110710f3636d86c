"""The errors of this package.

```
ShardsError
├── DatasetError        not a dataset, or one that this version cannot read
│   └── ManifestError   dataset.json has problems; `.problems` lists all of them
├── CorruptionError     bytes that are damaged, truncated or do not belong here
├── StoreError          a store that does not answer, or refuses
└── StateError          a saved position that belongs to another dataset or order
```

Wrong arguments are plain `ValueError`, `TypeError` and `IndexError`, as everywhere in Python.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["CorruptionError", "DatasetError", "ManifestError", "ShardsError", "StateError", "StoreError"]

_MOST_PROBLEMS = 20  # in the message of a manifest with more


class ShardsError(Exception):
    """The base of every error that this package raises about data."""


class DatasetError(ShardsError):
    """A path that holds no dataset, or a dataset that this version cannot read."""


class ManifestError(DatasetError):
    """A manifest with problems, each as `path: problem`."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        more = len(self.problems) - _MOST_PROBLEMS
        shown = [*self.problems[:_MOST_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
        super().__init__("dataset.json is not a valid manifest: " + "; ".join(shown))


class CorruptionError(ShardsError):
    """A file that is damaged, truncated, missing, or not the one the manifest describes."""


class StateError(ShardsError):
    """A saved position of another dataset, split or order."""


class StoreError(ShardsError):
    """A store that did not answer, in spite of retries, or that refuses to."""
