"""What the tests share: small images, real images if they are there, and the command as a user runs it."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from support.command import prepared
from support.fault_proxy import FaultProxy
from support.images import shared, write_image
from support.servers import Servers, Store, Unavailable

from shard_reader.remote import cache

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Each has one CPU. Threads of PyTorch and BLAS that wait for each other would take twice the time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# torchvision loads triton, whose LLVM aborts a process in which TensorFlow or JAX has loaded its own.
sys.modules.setdefault("triton", None)  # type: ignore[arg-type]
# A shell's background job ignores them, and so would every command that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Caches without a bound take what the disk has, however full the machine is.
cache._MOST_SPARE = 0
# A forked child collects no garbage of its parent's: TensorFlow's, of tests before, crashes it.
os.register_at_fork(after_in_child=gc.freeze)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names of tests with the address of an object, which is another one in each process of pytest-xdist."""
    wrong = [item.nodeid for item in items if re.search("0x[0-9a-f]{6}", item.nodeid)]
    if wrong:
        raise pytest.UsageError(f"give it ids=: {wrong[0]}")


@pytest.fixture(scope="session")
def photos() -> Path:
    return shared("photos")


@pytest.fixture(scope="session")
def cifar10() -> Path:
    return shared("cifar10")


@pytest.fixture(scope="session")
def odd() -> Path:
    return shared("odd")


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of several sizes in three class folders, "a" to "c", 20 each."""
    root = tmp_path_factory.mktemp("images")
    for number in range(60):
        suffix = "png" if number % 2 else "jpg"
        size = (20 + number % 7, 16 + number % 5)
        write_image(root / "abc"[number % 3] / f"{number:03d}.{suffix}", number, size)
    return root


@pytest.fixture(scope="session")
def raw_shards(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class folders as 16x12 raw pixels: 48 and 12 records, in 3 and 1 shards, in both formats."""
    output = tmp_path_factory.mktemp("raw") / "shards"
    options = (
        "--size 16x12 --encoding raw --format tfrecord --format hdf5 --split train=0.8,val=0.2 --stratify --shards 3"
    )
    return prepared(class_folders, output, *options.split())


@pytest.fixture(scope="session")
def jpeg_shards(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class folders as JPEGs that cover 16x16 and differ in size, in 2 shards of both formats."""
    output = tmp_path_factory.mktemp("jpeg") / "shards"
    options = "--size 16 --format tfrecord --format hdf5 --shard-records 30"
    return prepared(class_folders, output, *options.split())


@pytest.fixture
def bucket() -> str:
    """A prefix that nobody else uses, in an object store in memory."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Object stores and a web server on this machine: each is started when a test asks for it."""
    found = Servers(tmp_path_factory.mktemp("servers"))
    yield found
    found.close()


@pytest.fixture
def new_store(servers: Servers) -> Callable[[str], Store]:
    """Gives a new place in a server of `servers.SERVERS`, or skips the test and says how to have that server."""

    def find(name: str) -> Store:
        try:
            return servers.store(name)
        except Unavailable as error:
            pytest.skip(str(error))

    return find


@pytest.fixture(params=["moto", "minio"])
def s3(request: pytest.FixtureRequest, new_store: Callable[[str], Store]) -> Store:
    """A place in S3: in a server that is always there, and in one that checks more."""
    return new_store(request.param)


@pytest.fixture
def gcs(new_store: Callable[[str], Store]) -> Store:
    """A place in Google Cloud Storage."""
    return new_store("gcs")


@pytest.fixture
def azure(new_store: Callable[[str], Store]) -> Store:
    """A place in Azure Blob Storage."""
    return new_store("azurite")


@pytest.fixture
def web(new_store: Callable[[str], Store]) -> Store:
    """A folder that a web server shows; it is filled on the disk."""
    return new_store("nginx")


@pytest.fixture(params=["moto", "minio", "gcs", "azurite"])
def store(request: pytest.FixtureRequest, new_store: Callable[[str], Store]) -> Store:
    """A place in each object store."""
    return new_store(request.param)


@pytest.fixture
def proxy(stored: tuple[Path, Store], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before a module's own `stored`, its dataset on a disk and in a store, which is found at the proxy."""
    with FaultProxy(stored[1].endpoint) as proxy:
        stored[1].through("127.0.0.1", proxy.port).use(monkeypatch)
        yield proxy


# The first example pays for importing TensorFlow, and the machine may be busy. A commit passes or fails by what it is,
# not by chance: its examples are the same each time. The night looks for new ones (`scripts/nightly`).
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("new", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("same")
