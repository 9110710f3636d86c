"""The command as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent


def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `image-shards` as a user would, in a process of its own."""
    words = [sys.executable, "-m", "beam_jobs", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=600, **options)  # type: ignore[call-overload]


def prepared(*arguments: object) -> Path:
    """Run `image-shards prepare INPUT OUTPUT ...`, which must succeed; OUTPUT."""
    result = command("prepare", *arguments)
    assert result.returncode == 0, result.stderr
    return Path(str(arguments[1]))
