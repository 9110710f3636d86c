"""A command under limits of memory and time, within which hostile input must end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from support import fork_server

__all__ = ["MEMORY", "limited", "limited_command"]

MEMORY = 1 << 30
_SECONDS = 120
_MOST = 6 << 30
# A process that is started by a large one is said to have had its memory. So a small one starts the command, and asks
# for the peak of it and of the processes that it started. RLIMIT_DATA ends an attack before it ends the machine.
_MEASURE = f"""
import json, resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_DATA, ({_MOST}, {_MOST}))
status = subprocess.call(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    json.dump(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, file)
sys.exit(status if status >= 0 else 128 - status)
"""


def limited(code: str, *arguments: object, seconds: float = _SECONDS) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own. It fails the test if it takes more than 1 GiB, or too long."""
    return _run([sys.executable, "-c", code, *map(str, arguments)], seconds)


def limited_command(*words: object, seconds: float = _SECONDS) -> subprocess.CompletedProcess[str]:
    """Run `image-shards`. It fails the test if it takes more than 1 GiB, or too long, or prints a traceback."""
    if sys.platform != "linux":
        result = _run([sys.executable, "-m", "beam_jobs", *map(str, words)], seconds)
    else:
        try:
            result, used = fork_server.run(list(map(str, words)), seconds, _MOST)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended after {seconds} s: {words}") from None
        _check(used, result)
    assert "Traceback" not in result.stderr, result.stderr
    return result


def _run(words: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as directory:
        peak = Path(directory, "peak")
        process = subprocess.Popen(
            [sys.executable, "-c", _MEASURE, str(peak), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            raise AssertionError(f"not ended after {seconds} s: {words}\n{output}\n{errors}") from None
        assert peak.exists(), f"the process that measures has ended: {errors}"
        used = int(peak.read_text())
    result = subprocess.CompletedProcess(words, process.returncode, output, errors)
    _check(used, result)
    return result


def _check(used: int, result: subprocess.CompletedProcess[str]) -> None:
    assert used < MEMORY, f"took {used / 1e6:,.0f} MB: {result.args}\n{result.stderr}"
