"""Fuzzes one target for some seconds: `python tests/fuzz/run.py TARGET SECONDS [CORPUS]`. Without words: the targets.

Atheris mutates by the code that an input reaches; where it is not installed, hypothesis mutates blindly. The end of the
output is the number of executions. The exit status is not 0 if an input went wrong; a file with it is named.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

try:
    import atheris
except ModuleNotFoundError:
    atheris = None

# To list the targets, nothing is instrumented, which prints a line for each module.
_INSTRUMENTED = atheris.instrument_imports(include=["beam_jobs", "shard_reader"]) if atheris and sys.argv[1:] else None

with _INSTRUMENTED or contextlib.nullcontext():
    from fuzz.targets import FOUND, TARGETS, Target, check

_MEMORY_MB, _INPUT_SECONDS, _INPUT_BYTES = 1024, 20, 20_000


def main(name: str, seconds: int, corpus: Path) -> None:
    """Fuzz a target, and keep inputs that reach new code in the folder `corpus`."""
    corpus.mkdir(parents=True, exist_ok=True)
    target = TARGETS[name]
    inputs = [*target.seeds(), *(path.read_bytes() for path in sorted((FOUND / name).glob("*")))]
    for data in inputs:
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    (_by_atheris if atheris else _by_hypothesis)(target, seconds, corpus)


def _by_atheris(target: Target, seconds: int, corpus: Path) -> None:
    found = corpus.parent / f"{corpus.name}-"
    options = {
        "max_total_time": seconds,
        "rss_limit_mb": _MEMORY_MB,
        "timeout": _INPUT_SECONDS,
        "max_len": _INPUT_BYTES,
        "artifact_prefix": found,
        "print_final_stats": 1,
        "verbosity": 1,
    }
    words = [sys.argv[0], *(f"-{option}={value}" for option, value in options.items()), str(corpus)]
    atheris.Setup(words, lambda data: check(target, data))
    atheris.Fuzz()


def _by_hypothesis(target: Target, seconds: int, corpus: Path) -> None:
    from fuzz.mutations import mutations
    from hypothesis import HealthCheck, given, seed, settings

    inputs = [path.read_bytes() for path in corpus.iterdir()]
    executions, until = 0, time.monotonic() + seconds

    @settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=mutations(inputs))
    def examples(data: bytes) -> None:
        nonlocal executions
        executions += 1
        check(target, data)

    for number in iter(int, 1):
        if time.monotonic() > until:
            break
        seed(number)(examples)()
    print("stat::number_of_executed_units:", executions)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(*TARGETS)
        sys.exit()
    with contextlib.ExitStack() as stack:
        if len(sys.argv) > 3:
            folder = Path(sys.argv[3])
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()), sys.argv[1])
        main(sys.argv[1], int(sys.argv[2]), folder)
