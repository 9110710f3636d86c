"""Text for people: numbers in words, and how far a command is."""

from __future__ import annotations

import os

import pytest

from beam_jobs import terminal
from beam_jobs.terminal import (
    ProgressLine,
    counted,
    print_status,
    print_warning,
    progress_bar,
    progress_text,
    rate_text,
    size_text,
)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(terminal, "time", clock)
    return clock


def test_numbers_in_words() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [size_text(number) for number in (700, 8_300_000, 1_500_000_000)] == ["0.7 kB", "8.3 MB", "1.5 GB"]


def test_small_rates_have_a_decimal() -> None:
    assert [rate_text(rate) for rate in (0.04, 0.44, 9.94, 10, 123.4)] == ["0.0", "0.4", "9.9", "10", "123"]


def test_progress_in_words_counts_the_rate_of_this_run() -> None:
    text = progress_text(150, 300, "images", 10.0, "2 rejected", kept=50)
    assert text == "150/300 images, 10 images/s, 2 rejected, 0:15 left"


@pytest.mark.parametrize("kept", [0, 50])
def test_progress_without_a_rate_promises_no_time(kept: int) -> None:
    assert progress_text(kept, 300, "images", 0.1, "0 rejected", kept) == f"{kept}/300 images, 0 rejected"


def test_progress_as_a_bar() -> None:
    assert progress_bar(150, 300, "images", 10.0, "2 rejected").startswith(" 50%|")


def test_a_status_line_has_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    print_status("https://me:secret@example.com/a is read")
    assert "secret" not in capsys.readouterr().err


def test_without_a_terminal_a_line_comes_now_and_then(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    line = ProgressLine(10.0)
    for clock.now in (100.0, 105.0, 111.0, 112.0, 122.0):
        line.show(f"at {clock.now:.0f}")
    line.clear()
    line.leave("the end")
    assert capsys.readouterr().err == "at 111\nat 122\nthe end\n"


def test_without_a_terminal_and_without_a_pause_there_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine()
    line.show("1/2 shards")
    line.clear()
    line.leave("2/2 shards")
    assert not capsys.readouterr().err


def test_on_a_terminal_a_line_takes_the_place_of_the_last_one(
    capsys: pytest.CaptureFixture[str], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    line = ProgressLine()
    for clock.now in (100.0, 100.1, 100.3):
        line.show(f"at {clock.now:.1f}")
    line.leave("the end")
    assert capsys.readouterr().err == "\r\x1b[Kat 100.0\r\x1b[Kat 100.3\r\x1b[Kthe end\n"


def test_a_terminal_made_narrower_shows_one_line(
    capsys: pytest.CaptureFixture[str], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = 80
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("os.get_terminal_size", lambda number: os.terminal_size((columns, 24)))
    monkeypatch.setattr("sys.stderr.fileno", lambda: 2)
    line = ProgressLine()
    clock.now = 101.0
    line.show("x" * 100)
    assert capsys.readouterr().err == "\r\x1b[K" + "x" * 79
    columns, clock.now = 30, 102.0
    line.show(progress_bar(150, 300, "images", 10.0, "2 rejected"))
    up, _, bar = capsys.readouterr().err.rpartition("\x1b[K")
    assert up == "\r\x1b[K\x1b[A\x1b[K\x1b[A"  # the 79 characters are three lines now
    assert len(bar) <= 29


def test_quiet_has_warnings_alone(
    capsys: pytest.CaptureFixture[str], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(terminal, "_output", terminal._Output())
    terminal.set_output(terminal.QUIET)
    line = ProgressLine(10.0)
    clock.now = 200.0
    line.show("1/2 shards")
    line.leave("2/2 shards")
    print_status("photos: 3 class folders")
    print_warning("the store does not answer")
    assert capsys.readouterr().err == "the store does not answer\n"
