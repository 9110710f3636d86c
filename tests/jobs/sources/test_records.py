"""Files of many images: which ones are taken for such."""

from __future__ import annotations

from pathlib import Path

from support.sources import images, refused_records, save

from beam_jobs.sources.files.file_names import is_records


def test_names() -> None:
    names = [
        "a.tfrecord",
        "a.TFRecords",
        "pets-train.tfrecord-00000-of-00010",
        "train-00000-of-01024",
        "x/a.h5",
        "a.hdf5",
    ]
    assert all(map(is_records, [*names, "a.npz", "a.npy", "a.tfrecord.gz"]))
    assert not any(map(is_records, ["a.jpg", "train-00000-of-00002.tfrecord.index.npy", "state-of-art", "a.tar"]))


def test_inputs_that_are_none(tmp_path: Path, bucket: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    forms = "(.tfrecord, .h5, .hdf5, .npz, .npy; for others, --record says what a record is)"
    assert refused_records(tmp_path) == f"INPUT: holds no file of records {forms}"
    assert refused_records(tmp_path / "a.jpg") == f"INPUT: is no file of records {forms}"
    for place in (tmp_path / "b.h5", f"{bucket}/b.h5"):
        assert refused_records(place) == "INPUT: does not exist"
    save(tmp_path / "a.h5", {"x": images(1, 4, 4)})
    save(tmp_path / "a.npz", {"x": images(1, 4, 4)})
    assert (
        refused_records(tmp_path) == "INPUT: holds HDF5 and npz files; give a folder that holds one kind, or one file"
    )
    assert (
        refused_records(tmp_path, root="x") == "--root x: has no meaning where INPUT is a file of records; leave it out"
    )
