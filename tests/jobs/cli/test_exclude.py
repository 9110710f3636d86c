"""`--exclude FILE`: inputs that are left out by their ids, counted, and in the fingerprint."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import command, prepared
from support.images import write_image

from beam_jobs.cli.main import main
from beam_jobs.cli.prepare import parse
from beam_jobs.errors import UsageError
from beam_jobs.runners import workers
from beam_jobs.steps.summary import Progress
from shard_reader import open_dataset
from shard_reader.format import Manifest


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(4):
        write_image(tmp_path / f"in/{'ab'[number % 2]}/{number}.png", number)
    return tmp_path / "in"


def test_inputs_are_left_out_and_counted(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("a/2.png\r\n\nb/nowhere.png\n")
    result = command("prepare", photos, tmp_path / "out", "--exclude", tmp_path / "ids")
    assert result.returncode == 0, result.stderr
    assert "2 class folders, 3 images, 0 files ignored, 1 excluded" in result.stderr
    assert "warning: --exclude: 1 id of the file no input has: b/nowhere.png" in result.stderr
    assert "  excluded   1, as --exclude says" in result.stdout
    manifest = Manifest.from_json((tmp_path / "out/dataset.json").read_text())
    assert (manifest.counts.excluded, manifest.counts.planned, manifest.counts.written) == (1, 3, 3)
    assert sorted(record["id"] for record in open_dataset(tmp_path / "out", "train")) == [
        "a/0.png",
        "b/1.png",
        "b/3.png",
    ]
    again = command("prepare", photos, tmp_path / "out")
    assert again.returncode == 2
    assert "OUTPUT" in again.stderr and "was made differently: exclude is " in again.stderr


def test_without_it_a_manifest_has_no_new_key(photos: Path, tmp_path: Path) -> None:
    assert '"exclude' not in (prepared(photos, tmp_path / "out") / "dataset.json").read_text()


def test_all_inputs_excluded_is_an_error(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("".join(f"{'ab'[n % 2]}/{n}.png\n" for n in range(4)))
    assert main(["prepare", str(photos), str(tmp_path / "out"), "--exclude", str(tmp_path / "ids")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("content", "message"), [(b"\n\n", "has no id"), (b"\xff\n", "is not UTF-8 at byte 0")])
def test_a_file_that_cannot_be_used(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(content)
    with pytest.raises(UsageError, match=f"--exclude .*ids: {message}"):
        parse(["prepare", "in", "out", "--exclude", str(tmp_path / "ids")])


def test_ids_that_are_excluded_are_in_the_fingerprint() -> None:
    plain = parse(["prepare", "in", "out"])
    assert "exclude" not in plain.deciding()
    assert parse(["prepare", "in", "out", "--max-seconds", "3"]).deciding() == plain.deciding()


def test_a_line_of_progress_that_stands_still_names_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from beam_jobs.options import MaxRejects
    from beam_jobs.plan.order import PlannedInputs

    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = Progress(10, 10, PlannedInputs({}, Path(), 0, 0, ()), MaxRejects(count=0))
    progress.in_work = lambda: ["cat/\x1b[31m.jpg"]
    progress.counts(4)
    assert " on " not in progress.text(False)
    now[0] += 31
    assert "0 rejected, 31 s on cat/\\x1b[31m.jpg, " in progress.text(False)
    progress.counts(1)
    assert " on " not in progress.text(False)

    def slowly() -> list[str]:
        """The names, for which a plan in a store is read while others go on."""
        now[0] += 90
        progress.counts(1)
        return ["dog/1.jpg"]

    progress.in_work = slowly
    now[0] += 65
    assert "65 s on dog/1.jpg" in progress.text(False)
    assert workers.Workers(1, progress).in_work() == []
