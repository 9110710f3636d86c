"""States and checkpoints that strangers crafted: each is a StateError, and nothing outside of it is read or removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.crafted import BOMBS, SIDE, crafted_dataset, fields_of
from support.limits import limited

from shard_reader import StateError, Stream, mix, open_dataset


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make, _ = BOMBS["jpeg"]
    return crafted_dataset(tmp_path / "shards", [(make(SIDE, SIDE), SIDE, SIDE)] * 6, fields_of("jpeg", (16, 16, 3)))


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


CHANGES: dict[str, dict[str, Any]] = {
    "epoch": {"epoch": 2**62},
    "digits": {"epoch": 10**5000},
    "negative": {"epoch": -1},
    "step": {"step": 2**62},
    "text": {"step": "1"},
    "fraction": {"step": 1.0},
    "deep step": {"step": nested(100_000)},
    "deep dataset": {"dataset": nested(100_000)},
    "long dataset": {"dataset": "\x1b[2J" * 1_000_000},
    "coverage": {"step": 1, "coverage": {"rank": 0, "world_size": 1, "records": -1, "hash_sum": 0, "skipped": 0}},
    "large coverage": {
        "step": 1,
        "coverage": {"rank": 0, "world_size": 1, "records": 2**70, "hash_sum": 0, "skipped": 0},
    },
    "deep coverage": {"step": 1, "coverage": {"rank": 0, "world_size": 1, "records": nested(100_000)}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_crafted_state_is_an_error_and_moves_nothing(path: Path, name: str) -> None:
    data = open_dataset(path)
    streams: list[Stream] = [data.stream(batch_size=2), mix([data, data], [1, 1]).stream(batch_size=2)]
    for stream in streams:
        next(iter(stream))
        before = stream.state_dict()
        with pytest.raises(StateError) as found:
            stream.load_state_dict(before | CHANGES[name])
        assert len(str(found.value)) < 2_000 and str(found.value).replace("\n", "").isprintable()
        assert stream.state_dict() == before


KERAS = """
import sys
from pathlib import Path
import keras
from shard_reader import StateError, open_dataset
from shard_reader.keras import ResumeCallback, ShardSequence

data = open_dataset(sys.argv[1])
model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
model.compile("sgd", "mse")
for checkpoint in sys.argv[2:]:
    sequence = ShardSequence(data.stream(batch_size=2))
    try:
        resume = ResumeCallback(sequence, checkpoint)
        model.fit(sequence, epochs=2, initial_epoch=resume.initial_epoch, callbacks=[resume], verbose=0)
        print("no error")
    except StateError as error:
        print(error)
"""
NAME = "epoch-00000-step-00000001.weights.h5"


def checkpoint(path: Path, state: dict[str, Any], **changes: Any) -> Path:
    path.mkdir()
    position = {"epoch": 0, "weights": NAME, "position": state, "random_states": []} | changes
    (path / "position.json").write_text(json.dumps(position))
    return path


@pytest.mark.slow
def test_a_crafted_checkpoint_reads_and_removes_nothing_elsewhere(path: Path, tmp_path: Path) -> None:
    """One process for all of them, since Keras takes long to import."""
    import os

    import h5py
    import numpy as np

    state = open_dataset(path).stream(batch_size=2).state_at(1)
    secret = tmp_path / "secret.weights.h5"
    with h5py.File(secret, "w") as file:
        file["layers/dense/vars/0"] = np.zeros((768, 1), np.float32)
    kept = secret.read_bytes()
    names = ["../secret.weights.h5", str(secret), "secret\0", "", ".", 5, None, ["x"], f"{NAME}/", f"x/../{NAME}"]
    places = [checkpoint(tmp_path / f"name{n}", state, weights=name) for n, name in enumerate(names)]
    for number, change in enumerate(
        [{"epoch": 10**400}, {"epoch": -1}, {"epoch": "0"}, {"random_states": 5}, {"position": 5}]
    ):
        places.append(checkpoint(tmp_path / f"value{number}", state, **change))
        (places[-1] / NAME).write_bytes(kept)
    for kind in ("link", "storage", "fifo", "no file"):
        places.append(checkpoint(tmp_path / kind, state))
        if kind == "fifo":
            os.mkfifo(places[-1] / NAME)
        elif kind == "no file":
            (places[-1] / NAME).write_bytes(b"\x89HDF no")
        else:
            with h5py.File(places[-1] / NAME, "w") as file:
                if kind == "link":
                    file["layers"] = h5py.ExternalLink(str(secret), "/layers")
                else:
                    file.create_dataset("layers/dense/vars/0", (768, 1), "<f4", external=[(str(secret), 0, 3072)])
    places.append(tmp_path / "position is a fifo")
    places[-1].mkdir()
    os.mkfifo(places[-1] / "position.json")
    places.append(tmp_path / "deep")
    places[-1].mkdir()
    (places[-1] / "position.json").write_text("[" * 500_000)

    result = limited(KERAS, path, *places, seconds=300)
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and len(lines) == len(places), (result.stdout, result.stderr)
    for place, line in zip(places, lines, strict=True):
        assert str(place) in line or place.name == "value4", (place, line)
        assert "begin again" in line or place.name == "value4", line
    assert secret.read_bytes() == kept
