"""The command as a user runs it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from support import fork_server

REPOSITORY = Path(__file__).parent.parent.parent
HAS_BEAM = importlib.util.find_spec("apache_beam") is not None
_SECONDS = 600


def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `image-shards` as a user would, in a process of its own. With options of `subprocess.run` it is a new one."""
    words = list(map(str, arguments))
    # Elsewhere a fork is not safe after imports. What is forked has imported Beam.
    if options or sys.platform != "linux" or not HAS_BEAM:
        return new_process(*arguments, **options)
    result, _ = fork_server.run(words, _SECONDS)
    return result


def new_process(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `image-shards` in a new process, which imports everything, and has a seed of its own for hashes."""
    words = [sys.executable, "-m", "beam_jobs", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, **options)  # type: ignore[call-overload]


def prepared(*arguments: object) -> Path:
    """Run `image-shards prepare INPUT OUTPUT ...`, which must succeed; OUTPUT. Where Beam is missing, skip the test."""
    if not HAS_BEAM:
        pytest.skip("needs Beam: pip install 'image-shards[beam]'")
    result = command("prepare", *arguments)
    assert result.returncode == 0, result.stderr
    return Path(str(arguments[1]))
