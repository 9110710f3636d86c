"""Help, and how much a command prints."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.images import write_image

from beam_jobs import terminal
from beam_jobs.cli.commands import COMMANDS
from beam_jobs.cli.main import main
from beam_jobs.errors import UsageError


@pytest.fixture(autouse=True)
def output() -> Iterator[None]:
    """Print as usual again, whatever a test has set."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    terminal.set_output(terminal.NORMAL)
    root.setLevel(level)
    root.handlers[:] = handlers


def test_a_command_leaves_the_handlers_of_signals_of_its_caller(capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert main(["prepare"]) == 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def help_of(*words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_help_wraps_and_has_an_example(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = []
    for words in (["help", name], [name, "--help"]):
        help_of(*filter(None, words))
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert [line for line in shown[0].splitlines() if len(line) > 80] == []
    assert f"\nexample:\n  image-shards {name}" in shown[0]
    assert "--quiet" in shown[0] and "--verbose" in shown[0]


def test_help_on_something_else_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "prepair"]) == 2
    assert "invalid choice: 'prepair'" in capsys.readouterr().err


def test_quiet_prints_the_result_alone(raw_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(raw_shards)]) == 0
    usual = capsys.readouterr()
    for words in (["--quiet", "inspect", str(raw_shards)], ["inspect", str(raw_shards), "--quiet"]):
        assert main(words) == 0
        assert capsys.readouterr() == usual


@pytest.mark.slow
def test_quiet_prepare_says_nothing_but_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/1.png", "b/2.png"):  # of a single class there would be a warning, which is not silenced
        write_image(tmp_path / "in" / name)
    words = ["prepare", str(tmp_path / "in"), str(tmp_path / "out"), "--dry-run", "--shards", "1", "--workers", "1"]
    assert main(words) == 0
    usual = capsys.readouterr()
    assert main([*words, "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert usual.err.startswith(f"{tmp_path}/in: ") and not quiet.err
    assert quiet.out.splitlines()[0] == usual.out.splitlines()[0]


def test_verbose_has_the_traceback_without_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "https://me:secret@example.com/a?sig=hidden"

    def fail(*_: object) -> None:
        raise UsageError(f"{place}: does not exist")

    monkeypatch.setattr("beam_jobs.cli.datasets.inspect", fail)
    assert main(["inspect", place]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["--verbose", "inspect", place]) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err and err.splitlines()[-1].startswith("image-shards: error: ")
    assert "secret" not in err and "hidden" not in err


def test_the_logs_of_libraries_are_for_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    for level, shown in ((terminal.NORMAL, False), (terminal.VERBOSE, True)):
        terminal.set_output(level)
        assert (logging.getLogger("azure.identity.aio").getEffectiveLevel() <= logging.WARNING) is shown
