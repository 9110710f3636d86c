"""Images/s of `image-shards prepare` against other programs that do this work.

    python benchmarks/prepare.py FOLDER [--images 20000] [--runs 5] [--workers 2] [--peers PYTHON] [--only SIDE,...]

FOLDER holds class folders of JPEGs; they are repeated, as links, up to the number of images. All sides read the
same files and write JPEGs of quality 90 with a short side of 256 pixels. Each run is a whole process, start-up
included; the sides take turns, another first each round, so that a machine that slows down slows all. After each
run the records are counted: image-shards must have all of them, and the table has the losses of each peer. The table
is for benchmarks/README.md.

PYTHON is an interpreter with benchmarks/requirements-peers.txt; without it the hand-written pools are the only peers.
SIDEs are parts of names of sides. img2dataset reads URLs: an nginx started here serves the files on the loopback
interface.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import resource
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("apache-beam", "cykooz-resizer", "numpy", "pillow", "simplejpeg", "tensorflow-cpu")
PEERS = str(Path(__file__).with_name("prepare_peers.py"))
WARM_UP = 300  # images of the first round, which is not counted
ENVIRONMENT = {"LITDATA_DISABLE_VERSION_CHECK": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}  # peers that would call home

NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=50000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    scgi_temp_path {directory}/scgi;
    uwsgi_temp_path {directory}/uwsgi;
    server {{ listen 127.0.0.1:{port} backlog=1024; root {root}; }}
}}
"""


@dataclass(frozen=True)
class Side:
    """A program to measure: its command for (images, output), and a function that counts the records of an output."""

    name: str
    command: Callable[[Path, str], list[str]]
    count: Callable[[str], int]


def main() -> None:
    """Time all sides in turn and print the table."""
    options = parse()
    sides = ours_and_pools(options.workers) + (peers(options.peers, options.workers) if options.peers else [])
    if options.only:
        sides = [side for side in sides if any(part in side.name for part in options.only.split(","))]
    with tempfile.TemporaryDirectory() as directory:
        images = repeated(options.folder, Path(directory) / "images", options.images)
        few = repeated(options.folder, Path(directory) / "few", min(options.images, WARM_UP))
        with served(Path(directory)) if options.peers else contextlib.nullcontext() as address:
            for folder in (images, few):
                list_urls(folder, address)
            rounds_of = rounds(sides, images, few, options)
    print_table(options, *rounds_of)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter with litdata and img2dataset")
    parser.add_argument("--only", metavar="SIDE,...", help="these sides alone, by parts of their names")
    return parser.parse_args()


def repeated(source: Path, target: Path, count: int) -> Path:
    """Links to the images of `source`, each as often as it takes to have `count`."""
    originals = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for number, original in enumerate(itertools.islice(itertools.cycle(originals), count)):
        link = target / original.parent.name / f"{number:06d}{original.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(original.resolve())
    return target


def ours_and_pools(workers: int) -> list[Side]:
    """The sides that run in this interpreter."""

    def ours(filter: str) -> Callable[[Path, str], list[str]]:
        settings = ["--size", "256", "--filter", filter, "--quality", "90", "--workers", str(workers)]
        return lambda images, output: [sys.executable, "-m", "beam_jobs", "prepare", str(images), output, *settings]

    def pool(name: str) -> Callable[[Path, str], list[str]]:
        return lambda images, output: [sys.executable, PEERS, name, str(images), output, "--workers", str(workers)]

    commands = {
        "image-shards prepare": ours("lanczos"),
        "image-shards prepare --filter area": ours("area"),
        "Pillow pool, TFRecord": pool("pillow"),
        "OpenCV pool, TFRecord": pool("opencv"),
    }
    return [Side(name, command, count_tfrecords) for name, command in commands.items()]


def peers(python: str, workers: int) -> list[Side]:
    """The sides that run in an interpreter of their own."""

    def side(name: str, input_of: Callable[[Path], Path]) -> Side:
        def command(images: Path, output: str) -> list[str]:
            return [python, PEERS, name, str(input_of(images)), output, "--workers", str(workers)]

        def count(output: str) -> int:
            return int(captured([python, PEERS, name, output, "--count"], os.path.dirname(output)).split()[-1])

        return Side(name, command, count)

    return [side("litdata", lambda images: images), side("img2dataset", urls_of)]


def rounds(
    sides: Sequence[Side], images: Path, few: Path, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, int]]:
    """Images/s and CPU seconds of each side, round by round, and how many images it lost in the worst."""
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    cpu: dict[str, list[float]] = {side.name: [] for side in sides}
    lost: dict[str, int] = dict.fromkeys(rates, 0)
    for run in range(options.runs + 1):
        first = run % len(sides)
        for side in (*sides[first:], *sides[:first]):
            count = options.images if run else sum(1 for _ in few.glob("*/*"))
            seconds, work, found = timed(side, images if run else few)
            if side is sides[0] and found != count:
                raise SystemExit(f"{side.name}: {found} records of {count} images")
            if run:
                lost[side.name] = max(lost[side.name], abs(count - found))
                rates[side.name].append(count / seconds)
                cpu[side.name].append(work)
                print(f"round {run}, {side.name}: {count / seconds:.0f} images/s", file=sys.stderr)
    return rates, cpu, lost


def timed(side: Side, images: Path) -> tuple[float, float, int]:
    """Seconds of a process from start to end, those of the CPUs for it, and how many records it has made."""
    with tempfile.TemporaryDirectory() as directory:
        output = os.path.join(directory, "output")
        began, before = time.perf_counter(), cpu_of_processes()
        captured(side.command(images, output), directory)
        seconds, work = time.perf_counter() - began, cpu_of_processes() - before
        return seconds, work, side.count(output)


def cpu_of_processes() -> float:
    """Seconds of the CPUs in all processes that were waited for, and in theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def captured(command: list[str], temporary: str) -> str:
    """The output of a process. A failure ends this process.

    The process has a temporary folder of its own: litdata empties $TMPDIR/data and $TMPDIR/chunks of any owner.
    """
    environment = {**os.environ, **ENVIRONMENT, "TMPDIR": temporary}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}")
    return done.stdout


def count_tfrecords(output: str) -> int:
    """The records of a TFRecord file, or of those in a folder, by the lengths before them."""
    count = 0
    for path in sorted(Path(output).glob("*.tfrecord")) if os.path.isdir(output) else [Path(output)]:
        position, size = 0, path.stat().st_size
        with open(path, "rb") as file:
            while position < size:
                file.seek(position)
                position += struct.unpack("<Q", file.read(8))[0] + 16  # the length, two checksums
                count += 1
        if position != size:
            raise SystemExit(f"{path}: ends inside a record")
    return count


def urls_of(images: Path) -> Path:
    """The file that lists the URLs of a folder's images."""
    return images.with_suffix(".txt")


def list_urls(images: Path, address: str | None) -> None:
    """Write that file."""
    paths = sorted(path.relative_to(images.parent) for path in images.glob("*/*"))
    urls_of(images).write_text("".join(f"{address}/{path}\n" for path in paths))


@contextlib.contextmanager
def served(root: Path) -> Iterator[str]:
    """The address at which nginx serves the files in `root`."""
    if shutil.which("nginx") is None:
        raise SystemExit("nginx is missing: img2dataset needs a server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        user = "user root;" if os.geteuid() == 0 else ""  # its workers must be able to read `root`
        configuration = Path(directory) / "nginx.conf"
        configuration.write_text(NGINX.format(directory=directory, port=port, root=root, user=user))
        log = ["-e", f"{directory}/error.log"]
        with subprocess.Popen(["nginx", "-p", directory, "-c", str(configuration), *log]) as process:
            try:
                wait_for(port)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


def wait_for(port: int) -> None:
    """Until something listens there."""
    for _ in range(100):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("nginx does not start")


def print_table(
    options: argparse.Namespace, rates: dict[str, list[float]], cpu: dict[str, list[float]], lost: dict[str, int]
) -> None:
    """Versions; then medians, the range of each, and the ratios to the first side, round by round."""
    here = {"Python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    print(f"{options.images} images, {options.workers} workers, {options.runs} runs of each in turn;")
    print(", ".join(f"{name} {number}" for name, number in here.items()), end="")
    if options.peers:
        there = json.loads(captured([options.peers, PEERS, "--versions"], tempfile.gettempdir()))
        server = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip().split("/")[-1]
        print(f"; the peers' {', '.join(f'{name} {number}' for name, number in there.items())}, nginx {server}", end="")
    columns = ("", "images/s (median)", "least", "most", "first to this", "CPU, ms an image", "this to first", "lost")
    print(f":\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    first, work = next(iter(rates.values())), next(iter(cpu.values()))
    for name, those in rates.items():
        shown = (statistics.median(those), min(those), max(those))
        bounds = " | ".join(f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}" for rate in shown)
        spent = statistics.median(cpu[name]) / options.images * 1e3
        print(f"| {name} | {bounds} | {ratio(first, those)} | {spent:.1f} | {ratio(cpu[name], work)} | {lost[name]} |")


def ratio(these: Sequence[float], those: Sequence[float]) -> str:
    """The median ratio and its range, round by round."""
    ratios = [a / b for a, b in zip(these, those, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
