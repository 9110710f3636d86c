"""The object store of benchmarks/remote.py: a server on this machine, and the proxy that makes it a remote one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).parent
BUCKET = "bench"
HOST = "127.0.0.1"
KEY = "benchmark"

Process = TypeVar("Process", bound=subprocess.Popen)


@dataclass(frozen=True)
class Spent:
    """Until now, or between two moments: bytes of answers, connections, seconds of CPU of the server and the proxy."""

    fetched: int
    connections: int
    server: float
    proxy: float

    def since(self, before: Spent) -> Spent:
        """The difference to an earlier moment."""
        return Spent(*(now - then for now, then in zip(vars(self).values(), vars(before).values(), strict=True)))


class Store:
    """A server and its proxy, both running."""

    def __init__(self, server: subprocess.Popen[bytes], proxy: subprocess.Popen[str], port: int) -> None:
        self._server, self._proxy = server, proxy
        self.environment = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": KEY,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
            "S3_ENDPOINT_URL": f"http://{HOST}:{port}",  # MosaicML's
        }

    def spent(self) -> Spent:
        """Until now."""
        assert self._proxy.stdout
        self._proxy.send_signal(signal.SIGUSR1)
        fetched, connections = map(int, self._proxy.stdout.readline().split())
        return Spent(fetched, connections, cpu_of(self._server.pid), cpu_of(self._proxy.pid))


@contextlib.contextmanager
def serving(program: str, root: Path, latency: float, bandwidth: float) -> Iterator[Store]:
    """The folders of `root` as buckets, reached through the proxy; `program` is versitygw.

    Without `--keep-alive` it would close the connection after each answer.
    """
    port = free_port()
    keys = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": KEY}
    command = [program, "--quiet", "--keep-alive", "--readonly", "--port", f"{HOST}:{port}", "posix", str(root)]
    proxy = [sys.executable, str(HERE / "remote_proxy.py"), str(port)]
    proxy += ["--latency", str(latency), "--bandwidth", str(bandwidth)]
    with (
        ended(subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **keys})) as server,
        ended(subprocess.Popen(proxy, stdout=subprocess.PIPE, text=True)) as link,
    ):
        wait_for(server, port)
        assert link.stdout
        yield Store(server, link, int(link.stdout.readline()))


@contextlib.contextmanager
def ended(process: Process) -> Iterator[Process]:
    """A process that is killed at the end of the block."""
    try:
        yield process
    finally:
        process.kill()  # it would say that it was told to end
        process.wait()


def wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    """Until the server answers."""
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection((HOST, port)):
            return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit("the object store does not start")


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def tag(folder: Path) -> None:
    """Give each file the ETag that it would have if it had been uploaded; reads it, so that it is in the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "md5").hexdigest()
            os.setxattr(path, "user.etag", f'"{digest}"'.encode())


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
