"""The servers that other tests use: they hold what they are given, and end with the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from support.servers import SERVERS, Store

READ = "import fsspec, sys; print(fsspec.open(sys.argv[1]).open().read())"


@pytest.mark.parametrize("name", SERVERS)
def test_what_is_stored_is_found_by_another_process(name: str, new_store: Callable[[str], Store]) -> None:
    store, other = new_store(name), new_store(name)
    store.write("a/b 1.txt", b"content")
    assert store.contents() == {"a/b 1.txt": b"content"}
    assert store.contents("a") == {"b 1.txt": b"content"}
    assert other.contents() == {}
    found = subprocess.run(
        [sys.executable, "-c", READ, f"{store.url}/a/b 1.txt"],
        env={**os.environ, **store.environment},
        capture_output=True,
        text=True,
    )
    assert found.stdout == "b'content'\n", found.stderr


@pytest.mark.parametrize("name", SERVERS)
def test_this_process_finds_it_when_asked(
    name: str, new_store: Callable[[str], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(name)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/1").write_bytes(b"0123456789")
    url = store.copy(tmp_path, "in")
    store.use(monkeypatch)
    files, root = fsspec.url_to_fs(url)
    assert files.cat_file(f"{root}/c/1", start=3, end=6) == b"345"
    assert [entry["name"].rstrip("/").rpartition("/")[2] for entry in files.ls(f"{root}/c", detail=True)] == ["1"]


START = """
import sys, time
from pathlib import Path
from support.servers import Servers
found = Servers(Path(sys.argv[1]))
found.store("moto")
print(found._running["moto"][0].pid, flush=True)
time.sleep(3600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends a process with its parent")
def test_a_server_ends_with_a_test_run_that_is_killed(tmp_path: Path) -> None:
    words = [sys.executable, "-c", START, str(tmp_path / "servers")]
    with subprocess.Popen(words, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        os.kill(server, 0)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 300
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(server, 0)
            time.sleep(0.02)
