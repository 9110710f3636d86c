"""The rows of benchmarks/dlio/run.py, and their table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEPS = {"a100": 0.435, "h100": 0.224}  # seconds for a batch of 400, of DLIO's workloads resnet50_a100 and _h100
FAILED = "not measured"


@dataclass(frozen=True)
class Row:
    """A reader.

    Args:
        label: its name in the table.
        key: its name on the command line.
        data: the kind of its data: a function of dlio_data.py.
        loader: the class of the plug-in, for image-shards.
        reader: the class of a reader that is not DLIO's own.
        kind: DLIO's `reader.data_loader`; None for that of the workload.
        against: the key of image-shards' row to compare it with.
    """

    label: str
    key: str
    data: str
    loader: str | None = None
    reader: str | None = None
    kind: str | None = None
    against: str | None = None

    @property
    def overrides(self) -> list[str]:
        """DLIO's options for this reader, without its data."""
        options: dict[str, str] = {}
        if self.loader:
            # DLIO would refuse TFRecords with PyTorch's loader, and sample by itself.
            options = {"data_loader": "custom", "data_loader_sampler": "none"}
            options["data_loader_classname"] = self.loader
        if self.kind:
            options["data_loader"] = self.kind
        if self.reader:
            options["reader_classname"] = self.reader
        found = [f"++workload.reader.{name}={value}" for name, value in options.items()]
        return [*found, "++workload.dataset.format=tfrecord"] if self.loader else found

    @property
    def plugged_in(self) -> str | None:
        """The class that DLIO says it has found; without it, DLIO silently takes its own."""
        return (self.loader or self.reader or "").rpartition(".")[2] or None


WORKLOADS = {
    "resnet50_tfrecord": (
        Row("bytes: image-shards", "bytes", "shards", loader="dlio_loaders.StoredBytes"),
        Row("bytes: DLIO's TensorFlow reader", "tensorflow", "tfrecords", against="bytes"),
        Row("decoded: image-shards", "crops", "shards", loader="dlio_loaders.Crops"),
        Row(
            "decoded: DLIO's TensorFlow reader, which decodes",
            "tensorflow-crops",
            "tfrecords",
            reader="dlio_tensorflow.TensorFlowCrops",
            against="crops",
        ),
    ),
    "resnet50_jpeg": (
        Row("cropped: image-shards", "crops", "shards", loader="dlio_loaders.Crops"),
        Row(
            "cropped: DLIO's PyTorch reader, which crops",
            "pillow-crops",
            "jpegs",
            reader="dlio_pytorch.PillowCrops",
            against="crops",
        ),
        Row("whole: image-shards", "whole", "shards", loader="dlio_loaders.WholeImages"),
        Row("whole: DLIO's PyTorch reader", "pytorch", "jpegs", against="whole"),
        Row(
            "whole: DLIO's PyTorch reader, without its message",
            "pytorch-plain",
            "jpegs",
            reader="dlio_pytorch.PlainFiles",
            against="whole",
        ),
        Row("whole: DLIO's DALI reader", "dali", "jpegs", kind="native_dali", against="whole"),
    ),
}


@dataclass(frozen=True)
class Result:
    """A run: its summary.json, and the machine at that time.

    Args:
        utilisation: of the accelerator, in percent, the mean of all epochs.
        rate: samples a second, the mean of all epochs.
        others: the CPUs that programs other than this one used meanwhile.
    """

    utilisation: float
    rate: float
    others: float

    def __str__(self) -> str:
        return f"{self.utilisation:.1f} %, {self.rate:,.0f}/s, {self.others:.1f} CPUs used by others"

    @classmethod
    def of(cls, summary: Mapping[str, Any], others: float) -> Result:
        """Of the parsed file."""
        metric = summary["metric"]
        rate = metric["train_throughput_mean_samples_per_second"]
        return cls(metric["train_au_mean_percentage"], rate, others)


def table(rows: Sequence[Row], results: Mapping[str, Sequence[Result]]) -> str:
    """The median, the least and the most of all rounds; the ratios are those within a round."""
    lines = [
        "| | accelerator utilisation, % | samples/s | image-shards to this, samples/s | CPUs used by others |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        those = results[row.key]
        if not those:
            lines.append(f"| {row.label} | {FAILED} | | | |")
            continue
        ours = results.get(row.against or "", ())
        ratios = [a.rate / b.rate for a, b in zip(ours, those, strict=False)]
        cells = [
            _range([one.utilisation for one in those], ".1f"),
            _range([one.rate for one in those], ",.0f"),
            _range(ratios, ".2f") if ratios else "",
            _range([one.others for one in those], ".1f"),
        ]
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _range(numbers: Sequence[float], form: str) -> str:
    """As "median (least to most)"."""
    return f"{statistics.median(numbers):{form}} ({min(numbers):{form}} to {max(numbers):{form}})"
