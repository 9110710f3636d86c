"""Scripts that run as the ranks of one job of PyTorch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

# At the interpreter's own end, threads of gloo may still be there, and abort it.
_END = "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n"


def run_ranks(script: str, *arguments: object, world_size: int = 2) -> list[Any]:
    """The last line that each rank prints, which is JSON."""
    # A port that is free now: all ranks begin at once, and nobody else on this machine asks for one by its number.
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    common |= {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script + _END, *map(str, arguments)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    results = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * world_size, results
    return [json.loads(out.splitlines()[-1]) for out, _ in results]
