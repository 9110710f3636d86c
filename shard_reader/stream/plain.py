"""A stream as plain values for pickles: its order, and the translation of attributes that streams once had."""

from __future__ import annotations

from typing import Any

from shard_reader.order.batches import BatchOrder

__all__ = ["plain_order", "translated"]


def plain_order(order: BatchOrder) -> dict[str, Any]:
    """The arguments of `Records.stream` that make an order."""
    identity = order.record_order.identity()
    # The sources of a mixture all have an order of the same kind, so any of them has its arguments.
    while "sources" in identity:
        identity = identity["sources"][0]
    return {
        "shuffle": identity["shuffle"],
        "lanes": identity.get("lanes", 1),
        "window": identity.get("window", 1),
        "batch_size": order.batch_size,
        "rank": order.rank,
        "world_size": order.world_size,
        "remainder": order.remainder,
    }


def translated(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a stream, from the attributes of one pickled before November 2026: see `old_pickles.py`."""
    reader = state["_reader"]
    position = {
        "epoch": state["_epoch"],
        "step": state["_step"],
        "is_begun": state["_begun"],
        "moves": state["_moves"],
        "counted_epoch": state["_last_epoch"],
        "coverage": state["_coverage"].to_json(),
        "skipped": [
            (step, one.record, one.reason) for step, one in zip(state["_skipped_at"], state["_skipped"], strict=True)
        ],
    }
    return {
        "data": state["data"],
        "order": plain_order(state["order"]),
        "seed": state["seed"],
        "options": reader.options.to_plain(),
        "probed_image": None if reader._pixels is None else reader._pixels._probed,
        "position": position,
        "has_verified": state["_has_looked"],
        "was_cold": state["_was_cold"],
    }
