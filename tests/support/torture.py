"""Random draws of tests that kill and damage: the same each time, and others in each round of `scripts/torture`.

As a program, `python tests/support/torture.py FOLDER`: the sums of all rounds, from pytest's reports in a folder.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

__all__ = ["draws", "times"]

_ROUND = "IMAGE_SHARDS_ROUND"


def draws(seed: int) -> np.random.Generator:
    """Random numbers of a test in this round. Without `scripts/torture`, each run is the same round."""
    return np.random.default_rng([seed, int(os.environ.get(_ROUND, "0"))])


def times(number: int) -> int:
    """How often a test repeats itself in a round of `scripts/torture`; elsewhere a third of that."""
    return number if _ROUND in os.environ else -(-number // 3)


def _sums(folder: Path) -> Counter[str]:
    sums = Counter[str]()
    for report in folder.glob("*.xml"):
        for one in ElementTree.parse(report).iter("property"):  # of this project's own tests
            sums[one.attrib["name"]] += int(one.attrib["value"])
    return sums


if __name__ == "__main__":
    for name, count in sorted(_sums(Path(sys.argv[1])).items()):
        print(f"{name}: {count:,}")
