"""The command `image-shards`, also `python -m beam_jobs`: a process of its own."""

import contextlib
import os
import sys
from typing import NoReturn

from beam_jobs.signals import end_when_interrupted, raise_when_interrupted

__all__ = ["command"]


def command() -> NoReturn:
    """Run the command line of this process, and end the process."""
    end_when_interrupted()
    from beam_jobs.cli.main import main  # imports NumPy, which takes up to a second

    raise_when_interrupted()
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    # Not `sys.exit`: the interpreter takes a while to take Beam's modules and threads apart, and there is nothing left
    # to clean up.
    os._exit(status)


if __name__ == "__main__":
    command()
