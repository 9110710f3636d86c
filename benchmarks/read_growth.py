"""The time to the first batch, and the memory of an epoch, in benchmarks/read.py.

    python benchmarks/read_growth.py DATASET

It prints JSON: seconds from `open_dataset` to the first batch, and RssAnon in MiB (memory of its own, without mapped
files) before the dataset is opened, and the most of an epoch.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from itertools import count
from pathlib import Path

import numpy as np

from shard_reader import open_dataset

LOOK_EVERY = 16  # batches


def main() -> None:
    """Read an epoch of the dataset that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    dataset = parser.parse_args().dataset
    np.random.default_rng(0)  # a module that NumPy loads late
    before, began = anonymous(), time.perf_counter()
    data = open_dataset(dataset, split="train", format="tfrecord")
    stream = data.stream(batch_size=256, shuffle="full", seed=0, threads=2, prefetch=2)
    batches = iter(stream)
    next(batches)
    first, most = time.perf_counter() - began, anonymous()
    for number, _ in zip(count(), batches, strict=False):
        if number % LOOK_EVERY == 0:
            most = max(most, anonymous())
    most = max(most, anonymous())
    print(json.dumps({"records": len(data), "first": first, "before": before, "most": most}))


def anonymous() -> float:
    """RssAnon of this process, in MiB."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
