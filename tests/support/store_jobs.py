"""`image-shards prepare` in a process of its own, for somebody who has set what the SDKs of stores read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from support.command import command
from support.servers import SECRET, Store

from shard_reader.format import Manifest

__all__ = ["ABOUT_PLACES", "OPTIONS", "finished", "is_as", "run"]

OPTIONS = "--size 16x12 --encoding raw --format tfrecord --format hdf5 --split train=0.8,val=0.2 --stratify --shards 3"
# Files that name INPUT, workers or OUTPUT, or have the checksum of one.
ABOUT_PLACES = {"dataset.json", "dataset_info.json", "README.md", "croissant.json"}


def run(
    source: object, output: object, *stores: Store, options: str = OPTIONS, **more: str
) -> subprocess.CompletedProcess[str]:
    """The command, as somebody runs it who has set what the stores' SDKs read."""
    environment = dict(os.environ)
    for store in stores:
        environment |= store.environment
    result = command("prepare", source, output, *options.split(), env=environment | more)
    assert "Traceback" not in result.stderr
    for store in stores:  # the Azure emulator's has two forms
        for secret in (SECRET, *(part for part in store.environment.values() if "AccountKey=" in part)):
            assert secret not in result.stderr + result.stdout
    return result


def finished(source: object, output: object, *stores: Store, options: str = OPTIONS) -> str:
    """As `run`, which must succeed; what it says."""
    result = run(source, output, *stores, options=options)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def is_as(found: Mapping[str, bytes], expected: Path) -> None:
    """The files are those of a local job: the same bytes, and nothing else."""
    assert sorted(found) == sorted(path.name for path in expected.iterdir())
    names = [name for name in found if name not in ABOUT_PLACES]
    assert [name for name in names if found[name] != (expected / name).read_bytes()] == []
    here, there = found["dataset.json"].decode(), (expected / "dataset.json").read_text("utf-8")
    assert Manifest.from_json(here).splits == Manifest.from_json(there).splits
