"""Metrics of OpenTelemetry. The API package alone is needed; the program chooses an SDK and exporters."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields

try:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "shard_reader.telemetry.opentelemetry needs its API: pip install 'image-shards[telemetry]'", name=error.name
    ) from error

from shard_reader.system.stats import Stats
from shard_reader.telemetry.logger import HasStats, check_stats

__all__ = ["observe"]

_UNITS = {"batches": "{batch}", "records": "{record}", "bytes_fetched": "By", "page_waits": "{page}"}
_Streams = list[tuple[weakref.ref[HasStats], dict[str, str]]]
_observed: dict[Meter | None, _Streams] = {}


def observe(stream: HasStats, meter: Meter | None = None, attributes: Mapping[str, str] | None = None) -> None:
    """Have OpenTelemetry collect the stats of a stream, each number by an observable counter: `image_shards.batches`.

    `image_shards.waited` is a gauge: the share of the time of all loops so far that they waited. Shares of any period
    are those of the counters `image_shards.waited_seconds` and `image_shards.loop_seconds`. Streams are not kept alive.

    Args:
        stream: a stream, or `StreamDataset`, `ShardSequence` or `GlobalBatches`.
        meter: the meter; by default that of the global provider, which may be set later.
        attributes: attributes of its observations, as `{"split": "train"}`. Streams with the same ones replace each
            other in exports.

    Raises:
        TypeError: `stream` has no stats.

    Examples:
        >>> observe(stream, attributes={"split": "train"})  # doctest: +SKIP
    """
    check_stats(stream)
    if meter not in _observed:
        # Once for each meter: an SDK ignores the callbacks of a second instrument of the same name.
        _observed[meter] = []
        _add_instruments(get_meter("image-shards") if meter is None else meter, _observed[meter])
    streams = _observed[meter]
    streams[:] = [*(one for one in streams if one[0]() is not None), (weakref.ref(stream), dict(attributes or {}))]


def _add_instruments(meter: Meter, streams: _Streams) -> None:
    for one in fields(Stats):
        name = one.name
        unit = "s" if name.endswith("_seconds") else _UNITS.get(name, "1")
        meter.create_observable_counter(f"image_shards.{name}", [_observations(name, streams)], unit)
    meter.create_observable_gauge("image_shards.waited", [_observations("waited", streams)], "1")


def _observations(name: str, streams: _Streams) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observed(_: CallbackOptions) -> list[Observation]:
        alive = [(stream(), attributes) for stream, attributes in streams]
        return [Observation(getattr(one.stats(), name), attributes) for one, attributes in alive if one is not None]

    return observed
