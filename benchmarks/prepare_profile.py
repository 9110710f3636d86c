"""The time of each part of `image-shards prepare`.

    python benchmarks/prepare_profile.py FOLDER [--images 3000] [--runs 3] [--workers 2]

FOLDER holds class folders of JPEGs; they are repeated, as links, up to the number of images. Prints two tables:

- the work on one core: the shards are written in this process, by one thread, with the functions of `PARTS`
  wrapped. The time of a part excludes the parts inside it, so that parts and rest add up to the whole;
- the command: its time from start to end, cut at the `MOMENTS`, which are seen in its own process.

Of several runs, the one with the median whole is shown. Where a function has moved, change its line here.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

SETTINGS = ["--size", "256", "--filter", "lanczos", "--quality", "90"]

# The name of a part, the module that looks the function up, and the name by which it does.
PARTS = (
    ("read the file", "beam_jobs.sources.folder", "Folder.read"),
    ("header and EXIF, by Pillow", "beam_jobs.images.decode", "Image.open"),
    ("header and EXIF, by Pillow", "beam_jobs.images.decode", "Image.Image.getexif"),
    ("decode", "beam_jobs.images.decode", "_by_libjpeg"),
    ("colour profile to sRGB", "beam_jobs.images.decode", "_in_srgb"),
    ("decode: around it", "beam_jobs.images.process", "decode"),
    ("resize", "beam_jobs.images.process", "fit"),
    ("encode", "beam_jobs.images.process", "encode"),
    ("sums for the statistics", "beam_jobs.images.process", "ChannelSums.of"),
    ("sums for the statistics", "beam_jobs.images.process", "ChannelSums.__add__"),
    ("perceptual hashes", "beam_jobs.images.process", "perceptual_hashes"),
    ("hash of the file", "beam_jobs.shards.records.record", "_hash"),
    ("Example", "shard_reader.format.shard_formats.example", "encode"),
    ("frame with CRC, write", "shard_reader.format.shard_formats.tfrecord", "write_record"),
    ("index, from the file read back", "shard_reader.format.index", "build"),
    ("SHA-256 of the files", "beam_jobs.shards.write", "sha256_file"),
    ("fsync, small files, rename", "beam_jobs.shards.write", "write_whole"),
    ("fsync, small files, rename", "beam_jobs.shards.write", "_secure"),
    ("fsync, small files, rename", "beam_jobs.shards.write", "_finish"),
)

# The part that ends at a moment, and the moment: the begin of the first call, or the end of the last, of a function.
MOMENTS = (
    ("interpreter and imports", "begin", "beam_jobs.steps.prepare", "prepare"),
    ("list INPUT", "end", "beam_jobs.steps.prepare", "list_input"),
    ("plan", "begin", "beam_jobs.runners.run", "run_here"),
    ("import Beam", "begin", "beam_jobs.runners.pipeline", "build"),
    ("build and start the pipeline", "begin", "beam_jobs.runners.pipeline", "workers_of"),
    ("start processes, up to the first image", "begin", "beam_jobs.steps.summary", "Progress.counts"),
    ("images", "end", "beam_jobs.steps.summary", "Progress.counts"),
    ("finish the last shard", "begin", "beam_jobs.runners.pipeline", "publish"),
    ("commit: names, manifest", "end", "beam_jobs.runners.pipeline", "publish"),
    ("end Beam", "end", "beam_jobs.runners.run", "run_here"),
    ("end the processes", "end", "beam_jobs.steps.prepare", "prepare"),
)

Clocks = tuple[float, float]
"""Seconds by the clock, and of the CPU."""


class Done(Exception):
    """The work is done, and there is nothing to publish."""


class Stopwatch:
    """Time by part, each without the parts called inside it. For one thread."""

    def __init__(self) -> None:
        self.parts: defaultdict[str, Clocks] = defaultdict(lambda: (0.0, 0.0))
        self._inside: list[Clocks] = [(0.0, 0.0)]  # for each call that is open, what its own calls took

    def wrapped(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            self._inside.append((0.0, 0.0))
            began = clocks()
            try:
                return function(*arguments, **options)
            finally:
                whole = minus(clocks(), began)
                self.parts[part] = plus(self.parts[part], minus(whole, self._inside.pop()))
                self._inside[-1] = plus(self._inside[-1], whole)

        return timed


def main() -> None:
    """Profile the work and the command, and print both tables."""
    options = parse()
    if options.moments:
        print_moments(options.folder, options.moments, options.workers)
        return
    from prepare import repeated

    work, command = list[dict[str, Clocks]](), list[dict[str, Clocks]]()
    with tempfile.TemporaryDirectory() as directory:
        images = repeated(options.folder, Path(directory) / "images", options.images)
        for run in range(options.runs):
            work.append(profile_work(images, os.path.join(directory, f"work-{run}")))
            command.append(profile_command(images, os.path.join(directory, f"command-{run}"), options.workers))
    print(f"{options.images} images, one process with one thread, the median of {options.runs} runs:\n")
    print("| | µs for an image | of them CPU | share |\n|---|---|---|---|")
    print_rows(work, 1e6 / options.images)
    print(
        f"\n{options.images} images, the command with {options.workers} workers, the median of {options.runs} runs:\n"
    )
    print("| | ms | share |\n|---|---|---|")
    print_rows(command, 1e3, columns=1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--moments", metavar="OUTPUT", help="run the command here, and print its moments alone")
    return parser.parse_args()


def profile_work(images: Path, output: str) -> dict[str, Clocks]:
    """The time of each part of writing all shards, the rest last."""
    from beam_jobs.cli.prepare import parse as parse_options
    from beam_jobs.plan.tasks import TASKS_NAME, read_tasks
    from beam_jobs.shards.job import Watcher
    from beam_jobs.shards.output import PLAN
    from beam_jobs.shards.write import write_shard
    from beam_jobs.steps.prepare import prepare
    from shard_reader.storage.open import directory

    watch = Stopwatch()

    def write_all(pipeline: None, job: Any, *_: Any) -> None:
        for task in read_tasks(directory(job.output), PLAN + TASKS_NAME):
            write_shard(task, job, None, Watcher())
        raise Done

    with contextlib.ExitStack() as stack:
        for part, module, name in PARTS:
            stack.callback(replace(module, name, functools.partial(watch.wrapped, part)))
        stack.callback(replace("beam_jobs.runners.run", "run_here", lambda _: lambda steps, *_: steps(None, "")))
        stack.callback(replace("beam_jobs.runners.pipeline", "build", lambda _: watch.wrapped("the rest", write_all)))
        with contextlib.suppress(Done):
            prepare(parse_options(["prepare", str(images), output, *SETTINGS, "--workers", "1"]))
    return {part: watch.parts[part] for part in [*(part for part, *_ in PARTS), "the rest"]}


def profile_command(images: Path, output: str, workers: int) -> dict[str, Clocks]:
    """The time between one moment of the command and the next."""
    command = [sys.executable, __file__, str(images), "--moments", output, "--workers", str(workers)]
    began = time.monotonic()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    ended = time.monotonic()
    moments = json.loads(done.stdout.splitlines()[-1]) | {"end the interpreter": ended}
    times = [began, *moments.values()]
    return {name: (end - begin, 0.0) for name, begin, end in zip(moments, times, times[1:], strict=False)}


def print_moments(images: Path, output: str, workers: int) -> None:
    """Run the command in this process, and print when each moment was (the monotonic clock is the system's)."""
    seen: dict[str, float] = {}

    def watched(moment: str, edge: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            if edge == "begin":
                seen.setdefault(moment, time.monotonic())
            try:
                return function(*arguments, **options)
            finally:
                if edge == "end":
                    seen[moment] = time.monotonic()

        return timed

    def watch(module: str) -> None:
        for moment, edge, where, name in MOMENTS:
            if where == module:
                replace(where, name, functools.partial(watched, moment, edge))

    sys.meta_path.insert(0, AfterImport({module for _, _, module, _ in MOMENTS}, watch))
    from beam_jobs.cli.main import main as command

    status = command(["prepare", str(images), output, *SETTINGS, "--workers", str(workers)])
    print(json.dumps({name: seen[name] for name, *_ in MOMENTS if name in seen}), flush=True)
    os._exit(status)  # as the command does


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with the name of a module once that is imported, and not before."""

    def __init__(self, modules: set[str], then: Callable[[str], None]) -> None:
        self._modules, self._then = modules, then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's usual spec, whose loader calls the function at the end."""
        if name not in self._modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_call(module: ModuleType) -> None:
            execute(module)
            self._then(name)

        spec.loader.exec_module = execute_and_call  # type: ignore[method-assign]
        return spec


def replace(module: str, name: str, wrapper: Callable[[Callable[..., Any]], Any]) -> Callable[[], None]:
    """Put `wrapper(function)` in the function's place. Returns a function that undoes it."""
    *outer, last = name.split(".")
    try:
        holder = functools.reduce(getattr, outer, importlib.import_module(module))
        raw, wrapped = vars(holder)[last], wrapper(getattr(holder, last))
    except (ImportError, AttributeError, KeyError):
        print(f"{module} has no {name}: its time is in another part; change its line", file=sys.stderr)
        return lambda: None
    setattr(holder, last, staticmethod(wrapped) if isinstance(raw, classmethod) else wrapped)
    return functools.partial(setattr, holder, last, raw)


def print_rows(runs: Sequence[dict[str, Clocks]], scale: float, columns: int = 2) -> None:
    """The run with the median whole, a row for each part."""
    chosen = sorted(runs, key=total)[len(runs) // 2]
    for part, spent in {**chosen, "**all**": (total(chosen), sum(cpu for _, cpu in chosen.values()))}.items():
        values = " | ".join(f"{value * scale:.0f}" for value in spent[:columns])
        print(f"| {part} | {values} | {spent[0] / total(chosen):.1%} |")


def total(run: dict[str, Clocks]) -> float:
    """Seconds of the whole, by the clock."""
    return sum(wall for wall, _ in run.values())


def clocks() -> Clocks:
    """Now, on both clocks."""
    return time.perf_counter(), time.thread_time()


def plus(a: Clocks, b: Clocks) -> Clocks:
    """The sum."""
    return a[0] + b[0], a[1] + b[1]


def minus(a: Clocks, b: Clocks) -> Clocks:
    """The difference."""
    return a[0] - b[0], a[1] - b[1]


if __name__ == "__main__":
    main()
