"""The datasets of which several tests make reports."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import prepared
from support.messy import MESSY, write_messy


@pytest.fixture(scope="session")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_messy(tmp_path_factory.mktemp("messy") / "photos")


@pytest.fixture(scope="session")
def messy_shards(messy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(messy, tmp_path_factory.mktemp("messy-shards") / "shards", *MESSY, "--report", "--workers", 1)
