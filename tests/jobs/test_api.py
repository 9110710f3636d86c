"""The command as functions of Python: the same options, the same shards, and the caller's process as it was."""

from __future__ import annotations

import hashlib
import itertools
import logging
import shlex
import subprocess
import sys
import tempfile
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.command import REPOSITORY
from support.images import write_image

import beam_jobs
from beam_jobs import JobError, PrepareOptions, ProgressReport, UsageError, dry_run, prepare, terminal
from beam_jobs.cli.parser import command_parser
from beam_jobs.cli.prepare import _add_arguments, parse
from beam_jobs.prepare_options import words_of
from beam_jobs.sources import Entry, Reference, Source
from shard_reader import open_dataset

NOT_OPTIONS = {"help", "quiet", "verbose", "dry_run", "json", "config"}  # of the output of a command


class Pictures(Source):
    """A source that a test gives as a class."""

    def entries(self) -> Any:
        for path in sorted(Path(self.options.input).rglob("*.png")):
            yield Entry(path.name, place=str(path), label="all")

    def read(self, reference: Reference) -> bytes:
        return Path(reference.place).read_bytes()


@pytest.fixture(scope="session")
def with_a_broken_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images in two classes, of which one is damaged."""
    folder = tmp_path_factory.mktemp("inputs")
    for number in range(3):
        for name in ("cat", "dog"):
            write_image(folder / f"{name}/{number}.png", size=(20, 10), seed=number)
    (folder / "cat/1.png").write_bytes((folder / "cat/1.png").read_bytes()[:60])
    return folder


def options(folder: Path, output: Path, **more: Any) -> PrepareOptions:
    return PrepareOptions(input=folder, output=output, size=8, max_rejects=1, shards=2, workers=1, **more)


def test_the_fields_are_the_options_of_the_command_line() -> None:
    parser = command_parser("prepare", "", "", "")
    _add_arguments(parser)
    names = {
        action.option_strings[0].lstrip("-").replace("-", "_") if action.option_strings else action.dest
        for action in parser._actions
    }
    names -= {"license"}  # another spelling
    assert {one.name for one in fields(PrepareOptions)} - {"beam"} == {n.strip("-") for n in names} - {
        "h"
    } - NOT_OPTIONS


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"size": 64}, "--size 64"),
        ({"size": (64, 32), "fit": "pad", "pad_color": (1, 2, 3)}, "--size 64x32 --fit pad --pad-color 1,2,3"),
        ({"size": "64x32", "background": "red"}, "--size 64x32 --background red"),
        ({"split": {"train": 0.9, "val": 0.1}, "seed": -3}, "--split train=0.9,val=0.1 --seed=-3"),
        ({"split": "train=0.5,test=0.5", "stratify": True}, "--split train=0.5,test=0.5 --stratify"),
        ({"format": ["tfrecord", "hdf5"]}, "--format tfrecord --format hdf5"),
        ({"format": "hdf5", "overwrite": False}, "--format hdf5"),
        ({"fields": ["a", "b c"], "boxes": "box"}, "--fields 'a,b c' --boxes box"),
        ({"max_rejects": 3}, "--max-rejects 3"),
        ({"max_rejects": 0.5}, "--max-rejects 0.5"),
        ({"max_rejects": 0.00001}, "--max-rejects 0.00001"),
        ({"max_bytes": 1000, "shard_bytes": "3MB"}, "--max-bytes 1000 --shard-bytes 3MB"),
        ({"label_separator": "|", "name": "My photos"}, "--label-separator '|' --name 'My photos'"),
        ({"source": Pictures}, f"--source {__name__}:Pictures"),
        ({"beam": {"job_name": "x", "no_auth": None}}, "--job_name x"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_mean_the_same_as_a_command_line(given: dict[str, Any], line: str) -> None:
    words = PrepareOptions(input="in", output=Path("out"), **given).to_words()
    assert parse(["prepare", *words]) == parse(["prepare", "in", "out", *shlex.split(line)])


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1))
@example("--")
def test_any_text_reaches_its_option(text: str) -> None:
    words = words_of({"input": "in", "output": "out", "path_suffix": text, "label_column": text})
    source = parse(["prepare", *words]).source
    assert (source.path_suffix, source.label_column) == (text, text)


def test_a_path_that_begins_with_a_dash_is_no_option() -> None:
    assert parse(["prepare", *PrepareOptions(input="-in", output="--out").to_words()]).source.input == "-in"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 0}, "--size: must be 1 to 65500 pixels, got '0'"),
        ({"fit": "fill"}, "--fit: invalid choice: 'fill'"),
        ({"size": [True, 3]}, "size: expected a text or a number, got True"),
        ({"fields": ["a,b"]}, "fields: 'a,b' has a comma, which separates names; rename it"),
        ({"quality": {"jpeg": 3}}, r"quality: expected no mapping, got \{'jpeg': 3\}"),
        ({"workers": {2}}, r"workers: expected a text, a number or a list, got \{2\}"),
        ({"beam": ["--runner=FlinkRunner"]}, "beam: expected a mapping of Apache Beam's options to values"),
        ({"classes": []}, "classes: is an empty list"),
        ({"classes": ["cat", 3]}, "classes: 3 is no name"),
        ({"exclude": ["a", "a"]}, "exclude: 'a' is there twice"),
        ({"price": 0.3}, "--price: is for --dry-run"),
    ],
    ids=str,
)
def test_a_wrong_option_is_one_line(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        prepare(PrepareOptions(input=tmp_path, output=tmp_path / "out", **given))
    assert "\n" not in str(caught.value)


def test_a_class_that_no_worker_can_import_is_refused(tmp_path: Path) -> None:
    class Local(Pictures):
        pass

    with pytest.raises(UsageError, match="worker processes cannot import it from here; move the class to the top of a"):
        prepare(PrepareOptions(input=tmp_path, output=tmp_path / "out", source=Local))


def test_a_job_in_python_makes_the_shards_of_the_command(with_a_broken_one: Path, tmp_path: Path) -> None:
    from beam_jobs.cli.main import main

    result = prepare(options(with_a_broken_one, tmp_path / "a"))
    words = ["prepare", with_a_broken_one, tmp_path / "b", "--size", 8, "--max-rejects", 1, "--shards", 2]
    assert main(["--quiet", *map(str, words)]) == 0
    sums = [
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((tmp_path / name).glob("train-*"))]
        for name in "ab"
    ]
    assert sums[0] == sums[1] and len(sums[0]) == 4
    assert open_dataset(result.output).manifest == result.manifest


def test_the_result_tells_counts_and_rejects(
    with_a_broken_one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports: list[ProgressReport] = []
    result = prepare(options(with_a_broken_one, tmp_path / "out"), on_progress=reports.append)
    assert (result.counts.written, result.counts.rejected, result.was_finished) == (5, 1, False)
    assert [(reject.id, reject.reason) for reject in result.rejects()] == [("cat/1.png", "damaged")]
    assert str(result) == result.text and "5 images in" in result.text
    last = reports[-1]
    assert (last.step, last.done, last.total, last.unit, last.rejected) == ("WriteShards", 6, 6, "images", 1)
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    assert capsys.readouterr() == ("", "")  # with a callback, nothing is printed

    again = prepare(options(with_a_broken_one, tmp_path / "out"))
    assert again.was_finished and again.manifest == result.manifest
    assert "2 class folders" in capsys.readouterr().err

    with pytest.raises(JobError, match=r"was made differently: image\.quality is None there, 50 here"):
        prepare(options(with_a_broken_one, tmp_path / "out", quality=50))


def test_an_error_of_the_callback_ends_the_job_and_the_next_call_goes_on(
    with_a_broken_one: Path, tmp_path: Path
) -> None:
    def stop(report: ProgressReport) -> None:
        raise RuntimeError("the button was pressed")

    with pytest.raises(RuntimeError, match="the button was pressed"):
        prepare(options(with_a_broken_one, tmp_path / "out"), on_progress=stop)
    assert not (tmp_path / "out/dataset.json").exists()
    assert prepare(options(with_a_broken_one, tmp_path / "out")).counts.written == 5


def test_ctrl_c_stays_a_keyboard_interrupt(with_a_broken_one: Path, tmp_path: Path) -> None:
    def interrupt(report: ProgressReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="interrupted; "):
        prepare(options(with_a_broken_one, tmp_path / "out"), on_progress=interrupt)


def test_the_process_of_the_caller_is_left_as_it_was(with_a_broken_one: Path, tmp_path: Path) -> None:
    loggers = [logging.getLogger(name) for name in ("apache_beam", "fsspec", "")]
    before = [logger.level for logger in loggers], list(warnings.filters), list(sys.path), terminal._output.level
    prepare(options(with_a_broken_one, tmp_path / "out"), quiet=True)
    after = [logger.level for logger in loggers], list(warnings.filters), list(sys.path), terminal._output.level
    assert before == after


def test_threads_take_turns(with_a_broken_one: Path, tmp_path: Path) -> None:
    before = tempfile.tempdir, terminal._output.level, list(warnings.filters)
    seen: list[str] = []

    def run(name: str) -> int:
        chosen = options(with_a_broken_one, tmp_path / name)
        return prepare(chosen, on_progress=lambda report: seen.append(name)).counts.written

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, "abc")) == [5, 5, 5]
    assert len([name for name, _ in itertools.groupby(seen)]) == 3
    assert (tempfile.tempdir, terminal._output.level, list(warnings.filters)) == before


def test_names_may_be_lists(with_a_broken_one: Path, tmp_path: Path) -> None:
    chosen = options(with_a_broken_one, tmp_path / "out", classes=["dog", "cat"], exclude=["cat/1.png"])
    result = prepare(chosen, quiet=True)
    assert result.manifest.class_names == ("dog", "cat")
    assert (result.counts.written, result.counts.excluded) == (5, 1)


def test_a_source_may_be_a_class(with_a_broken_one: Path, tmp_path: Path) -> None:
    data = open_dataset(prepare(options(with_a_broken_one / "dog", tmp_path / "o", source=Pictures), quiet=True).output)
    assert (data.class_names, len(data)) == (("all",), 3)


def test_a_plan_writes_nothing(with_a_broken_one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = dry_run(options(with_a_broken_one, tmp_path / "out", price=0.5))
    assert found.splits["train"].images == 6 and found.estimate.price == 0.5
    assert not (tmp_path / "out").exists() and capsys.readouterr().err == ""


def test_the_package_lists_its_names() -> None:
    assert set(beam_jobs.__all__) == set(dir(beam_jobs))
    for name in beam_jobs.__all__:
        assert getattr(beam_jobs, name)
    with pytest.raises(AttributeError, match="has no attribute 'prepair'"):
        beam_jobs.prepair  # noqa: B018


@pytest.mark.slow
def test_a_script_needs_no_guard(with_a_broken_one: Path, tmp_path: Path) -> None:
    """A worker process that imported the main module would run the script again."""
    script = f"""
        from beam_jobs import PrepareOptions, prepare
        print("began")
        options = PrepareOptions(input={str(with_a_broken_one)!r}, output="out", size=8, max_rejects=1, workers=2)
        print(prepare(options, quiet=True).counts.written)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    words = [sys.executable, "script.py"]
    run = subprocess.run(words, cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("began\n5\n", "")


@pytest.mark.slow
def test_it_works_in_a_notebook(with_a_broken_one: Path, tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    code = f"""
        import sys
        sys.path.insert(0, {str(REPOSITORY)!r})
        from beam_jobs import PrepareOptions, prepare
        result = prepare(PrepareOptions(input={str(with_a_broken_one)!r}, output="out", size=8, max_rejects=1))
        print(result.counts.written)
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(code))])
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    streams = [output for output in notebook.cells[0].outputs if output.output_type == "stream"]
    printed = {name: "".join(one.text for one in streams if one.name == name) for name in ("stdout", "stderr")}
    assert printed["stdout"] == "5\n" and "2 class folders" in printed["stderr"]
