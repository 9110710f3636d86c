"""Real object stores and a web server on this machine, for the tests: each a process of its own on a free port.

```
moto        S3, a Python package that comes with image-shards[test]
minio       S3 that checks keys and policies, built by scripts/servers
gcs         fake-gcs-server, built by scripts/servers
azurite     Azure Blob Storage, fetched by scripts/servers
nginx       http with ranges and listings, from the system's packages
```

A server is started when the first test asks for it, and ends with the process that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest

__all__ = ["SERVERS", "Server", "Servers", "Store", "Unavailable", "first_of", "free_port"]

PLACE = Path(sys.prefix) / "servers"
"""Where scripts/servers puts what pip cannot install."""
KEY, SECRET = "testing-key", "testing-secret"
# Linux ends the process when that one ends which started it: told before the program begins.
_TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
_AZURE_ACCOUNT = "devstoreaccount1"  # with its well-known key, the only one that the emulator has
_AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

# gcsfs, when it is imported, decides whether to ask what kind of bucket it has: by gRPC, of which no emulator knows.
_NO_GRPC = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
os.environ.update(_NO_GRPC)


def first_of(*names: Any) -> list[Any]:
    """Parameters of a test, of which the first is tested always, and the others among the slow tests."""
    return [names[0], *(pytest.param(name, marks=pytest.mark.slow) for name in names[1:])]


class Unavailable(Exception):
    """A server that is not on this machine, and the command that brings it."""


@dataclass(frozen=True)
class Store:
    """A place in a store that no other test uses, and how to find it.

    `url` is a bucket's folder, which has no object yet. `environment` has the variables with which a process finds the
    server and is let in, as each SDK reads them. `endpoint` is the host and the port that they name. `options` are
    fsspec's, for `fs`. `folder` is what a web server shows, which alone can change it.
    """

    kind: str
    url: str
    endpoint: tuple[str, int]
    environment: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def protocol(self) -> str:
        """The scheme of the URL."""
        return self.url.partition("://")[0]

    def fs(self) -> Any:
        """A file system of fsspec's that caches no listing."""
        return fsspec.filesystem(self.protocol, use_listings_cache=False, **self.options)

    def write(self, name: str, data: bytes) -> None:
        """Store an object below `url`."""
        if self.folder is None:
            self.fs().pipe_file(f"{self.url}/{name}", data)
            return
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(data)

    def copy(self, source: Path, name: str) -> str:
        """Store the files below a local folder below `url` and `name`; the URL of that."""
        if self.folder is not None:
            shutil.copytree(source, self.folder / name)
        else:
            names = [str(path.relative_to(source)) for path in sorted(source.rglob("*")) if path.is_file()]
            here, there = ([f"{place}/{one}" for one in names] for place in (source, f"{self.url}/{name}"))
            self.fs().put(here, there)
        return f"{self.url}/{name}"

    def names(self, name: str = "") -> list[str]:
        """Of every object below `url` and `name` what follows that in its name."""
        if self.folder is not None:
            place = self.folder / name
            return [str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()]
        files = self.fs()
        root = files._strip_protocol(f"{self.url}/{name}".rstrip("/"))
        # A folder that comes to be while fsspec looks for it is found as an object.
        return [path[len(root) + 1 :] for path in files.find(root) if path != root]

    def contents(self, name: str = "") -> dict[str, bytes]:
        """The bytes of those objects, by `names`, while nobody changes them."""
        if self.folder is not None:
            return {found: (self.folder / name / found).read_bytes() for found in self.names(name)}
        files, root = self.fs(), f"{self.url}/{name}".rstrip("/")
        return {found: files.cat_file(f"{root}/{found}") for found in self.names(name)}

    def through(self, host: str, port: int) -> Store:
        """The same place, found at another endpoint: that of a proxy."""
        old, new = ("{}:{}".format(*place) for place in (self.endpoint, (host, port)))
        return dataclasses.replace(
            self,
            url=self.url.replace(old, new),
            endpoint=(host, port),
            environment={name: value.replace(old, new) for name, value in self.environment.items()},
            options=_replaced(self.options, old, new),
        )

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have this process find the store, too, as a process with `environment` does."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        fsspec.get_filesystem_class(self.protocol).clear_instance_cache()


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _replaced(one, old, new) for name, one in value.items()}
    return value.replace(old, new) if isinstance(value, str) else value


@dataclass(frozen=True)
class Server:
    """How to start a server, and how to use it.

    `program` is its path, or what is missing. `words` gives its arguments for a port and a folder of its own. `store`
    gives a new place in it, once it is there.
    """

    program: Callable[[], Path]
    words: Callable[[int, Path], list[str]]
    store: Callable[[tuple[str, int], Path], Store]
    environment: Mapping[str, str] = field(default_factory=dict)


def _built(name: str, wanted: str) -> Callable[[], Path]:
    def find() -> Path:
        path = PLACE / name
        if not path.exists():
            raise Unavailable(f"no {path}: run scripts/servers {wanted}")
        return path

    return find


def _installed(name: str, wanted: str) -> Callable[[], Path]:
    def find() -> Path:
        path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if path is None:
            raise Unavailable(f"no {name}: run scripts/servers {wanted}")
        return Path(path)

    return find


def _moto() -> Path:
    return Path(sys.executable)


def _node() -> Path:
    found = PLACE / "azurite/node"
    if not found.exists():
        raise Unavailable(f"no {found}: run scripts/servers azurite")
    return found


def _new_bucket(make: Callable[[str], Store]) -> Store:
    """A bucket of its own for each test, and a folder in it: neither is all that is in the other."""
    name = f"bucket-{uuid.uuid4().hex}"
    store = make(name)
    files = store.fs()
    if store.protocol == "s3":  # s3fs names a region for each bucket, and that of "us-east-1" has no name there
        files.call_s3("create_bucket", Bucket=name)
    else:
        files.mkdir(name)
    return store


def _s3(kind: str) -> Callable[[tuple[str, int], Path], Store]:
    def make(endpoint: tuple[str, int], folder: Path) -> Store:
        url = "http://{}:{}".format(*endpoint)
        none = folder / "none"  # what the user of this machine has set for S3 must not be found
        environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(none),
            "AWS_SHARED_CREDENTIALS_FILE": str(none),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        options = {"endpoint_url": url, "key": KEY, "secret": SECRET, "client_kwargs": {"region_name": "us-east-1"}}
        return _new_bucket(lambda name: Store(kind, f"s3://{name}/data", endpoint, environment, options))

    return make


def _gcs(endpoint: tuple[str, int], folder: Path) -> Store:
    url = "http://{}:{}".format(*endpoint)
    environment = {
        "STORAGE_EMULATOR_HOST": url,
        "NO_GCE_CHECK": "true",
        **_NO_GRPC,
        "CLOUDSDK_CONFIG": str(folder / "none"),
        "GOOGLE_CLOUD_PROJECT": "testing",
    }
    options = {"endpoint_url": url, "token": "anon", "project": "testing"}
    return _new_bucket(lambda name: Store("gcs", f"gs://{name}/data", endpoint, environment, options))


def _azure(endpoint: tuple[str, int], folder: Path) -> Store:
    url = "http://{}:{}".format(*endpoint)
    text = (
        f"DefaultEndpointsProtocol=http;AccountName={_AZURE_ACCOUNT};AccountKey={_AZURE_KEY};"
        f"BlobEndpoint={url}/{_AZURE_ACCOUNT};"
    )
    environment = {"AZURE_STORAGE_CONNECTION_STRING": text}
    options = {"connection_string": text}
    return _new_bucket(lambda name: Store("azurite", f"az://{name}/data", endpoint, environment, options))


def _http(endpoint: tuple[str, int], folder: Path) -> Store:
    name = uuid.uuid4().hex
    shown = folder / "www" / name / "data"
    shown.mkdir(parents=True)
    url = "http://{}:{}".format(*endpoint) + f"/{name}/data"
    return Store("nginx", url, endpoint, {}, {}, shown)


def _nginx_words(port: int, folder: Path) -> list[str]:
    places = "".join(
        f"{name}_temp_path {folder}/temporary;\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "www").mkdir()
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        "events { worker_connections 256; }\n"
        f"http {{ access_log {folder}/access.log; {places}\n"
        f"server {{ listen 127.0.0.1:{port}; root {folder}/www; autoindex on; }} }}\n"
    )
    return ["-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(folder / "error.log")]


SERVERS: Mapping[str, Server] = {
    "moto": Server(
        program=_moto,
        words=lambda port, folder: ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        store=_s3("moto"),
    ),
    "minio": Server(
        program=_built("minio", "minio"),
        words=lambda port, folder: ["server", "--quiet", "--address", f"127.0.0.1:{port}", "--console-address",
                                    "127.0.0.1:0", str(folder / "data")],
        store=_s3("minio"),
        environment={"MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET, "MINIO_UPDATE": "off",
                     "MINIO_BROWSER": "off"},
    ),
    "gcs": Server(
        program=_built("fake-gcs-server", "gcs"),
        words=lambda port, folder: ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory",
                                    "-public-host", f"127.0.0.1:{port}", "-external-url", f"http://127.0.0.1:{port}",
                                    "-log-level", "warn"],
        store=_gcs,
    ),
    "azurite": Server(
        program=_node,
        words=lambda port, folder: [str(PLACE / "azurite/node_modules/azurite/dist/src/blob/main.js"), "--blobHost",
                                    "127.0.0.1", "--blobPort", str(port), "--silent",
                                    "--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence"],
        store=_azure,
    ),
    "nginx": Server(program=_installed("nginx", "nginx"), words=_nginx_words, store=_http),
}  # fmt: skip


class Servers:
    """The servers of one process that tests: started when they are needed, and ended with it."""

    def __init__(self, place: Path) -> None:
        """With a folder for their data."""
        self._place = place
        self._running: dict[str, tuple[subprocess.Popen[bytes], tuple[str, int], Path]] = {}

    def store(self, name: str) -> Store:
        """A new place in a server of SERVERS.

        Raises:
            Unavailable: it is not on this machine.
        """
        if name not in self._running:
            self._running[name] = self._start(name)
        _, endpoint, folder = self._running[name]
        return SERVERS[name].store(endpoint, folder)

    def close(self) -> None:
        """End them all."""
        for process, _, _ in self._running.values():
            process.kill()
            process.wait()
        self._running.clear()

    def _start(self, name: str) -> tuple[subprocess.Popen[bytes], tuple[str, int], Path]:
        server = SERVERS[name]
        program = server.program()
        last = ""
        for attempt in range(3):  # another process may take the port that was free
            folder = self._place / f"{name}-{attempt}"
            folder.mkdir(parents=True)
            port = free_port()
            words = [str(program), *server.words(port, folder)]
            if sys.platform == "linux":
                words = [sys.executable, "-S", "-c", _TIED, *words]
            with open(folder / "log", "wb") as log:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
                    env={**os.environ, **server.environment},
                )  # fmt: skip
            if _answers(process, port):
                return process, ("127.0.0.1", port), folder
            process.kill()
            process.wait()
            last = (folder / "log").read_text("utf-8", "replace")[-2000:]
        raise RuntimeError(f"{name} does not start: {last}")


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as found:
            # Any answer will do: one that listens may not yet know what to say.
            found.sendall(b"GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
            if found.recv(1):
                return True
        time.sleep(0.05)
    return False
