"""OpenTelemetry collects the stats of streams, with its own SDK."""

from __future__ import annotations

import gc
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from shard_reader import Stats, Stream, open_dataset

pytest.importorskip("opentelemetry")
export = pytest.importorskip("opentelemetry.sdk.metrics.export", reason="needs opentelemetry-sdk")
sdk = pytest.importorskip("opentelemetry.sdk.metrics", reason="needs opentelemetry-sdk")

from shard_reader.telemetry.opentelemetry import observe  # noqa: E402  # after the check


def stream(path: Path) -> Stream:
    return open_dataset(path, split="train").stream(batch_size=10)


def collected(reader: Any) -> dict[str, dict[str, float]]:
    """Each metric, by the split that its observations name."""
    data = reader.get_metrics_data()
    found: dict[str, dict[str, float]] = {}
    for resource in [] if data is None else data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                values = {point.attributes.get("split", ""): point.value for point in metric.data.data_points}
                found[metric.name] = values
    return found


def test_every_number_is_an_observable_counter(raw_shards: Path) -> None:
    reader = export.InMemoryMetricReader()
    provider = sdk.MeterProvider([reader])
    one, other = stream(raw_shards), stream(raw_shards)
    meter = provider.get_meter("tests")
    observe(one, meter, {"split": "train"})
    observe(other, meter, {"split": "val"})
    list(one)
    found = collected(reader)
    assert set(found) == {f"image_shards.{field.name}" for field in fields(Stats)} | {"image_shards.waited"}
    assert found["image_shards.batches"] == {"train": 5, "val": 0}
    assert found["image_shards.records"] == {"train": 48, "val": 0}
    assert found["image_shards.loop_seconds"]["train"] == one.stats().loop_seconds
    assert found["image_shards.waited"]["train"] == one.stats().waited
    list(one)
    assert collected(reader)["image_shards.batches"]["train"] == 10
    del one
    gc.collect()
    assert collected(reader)["image_shards.batches"] == {"val": 0}  # it keeps no stream alive
    provider.shutdown()


def test_without_a_provider_nothing_is_collected(raw_shards: Path) -> None:
    one = stream(raw_shards)
    observe(one)
    observe(one)
    list(one)
    assert one.stats().batches == 5


def test_only_streams_are_observed() -> None:
    with pytest.raises(TypeError, match=r"has no stats\(\): pass a stream"):
        observe([1])  # type: ignore[arg-type]
