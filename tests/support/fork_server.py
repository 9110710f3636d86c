"""A process that has imported `image-shards`, and forks for each command line: a new process imports Beam for seconds.

It is a process of its own, so that no thread and no library of a test is in it.
"""

from __future__ import annotations

import array
import atexit
import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["run"]

_POLL_SECONDS = 5.0
_lock = threading.Lock()


# In a test


def run(words: list[str], seconds: float, memory: int | None = None) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run `image-shards` with `words`, in the working directory and the environment of this process.

    Args:
        words: the command line, without the name of the program.
        seconds: the time after which it is ended.
        memory: the bytes that each of its processes may allocate.

    Returns:
        the result, and the bytes of memory that the largest of its processes has had.

    Raises:
        TimeoutExpired: it was ended.
    """
    request = json.dumps(
        {"words": words, "directory": os.getcwd(), "environment": dict(os.environ), "memory": memory or -1}
    )
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        socket.socket(socket.AF_UNIX) as server,
    ):
        with _lock:
            server.connect(_address(os.getpid()))
        files = array.array("i", [output.fileno(), errors.fileno()])
        server.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        server.sendall(request.encode())
        server.shutdown(socket.SHUT_WR)
        status, peak = _status(server, words, seconds)
        return subprocess.CompletedProcess(words, status, _text(output), _text(errors)), peak


def _status(server: socket.socket, words: list[str], seconds: float) -> tuple[int, int]:
    with server.makefile() as answer:
        process = int(answer.readline())
        server.settimeout(seconds)
        try:
            status, peak = map(int, answer.readline().split())
            return status, peak
        except TimeoutError:
            os.kill(process, signal.SIGKILL)
            raise subprocess.TimeoutExpired(words, seconds) from None


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode(errors="backslashreplace")
    return text.replace("\r\n", "\n").replace("\r", "\n")  # as `subprocess` does


@cache
def _address(process: int) -> str:
    """The socket of the server of this process, which is started for it."""
    directory = tempfile.TemporaryDirectory(prefix="image-shards-fork-")
    address = str(Path(directory.name, "socket"))
    null = subprocess.DEVNULL
    server = subprocess.Popen([sys.executable, __file__, address], stdin=null, stdout=subprocess.PIPE, stderr=null)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n", "the fork server does not start"

    def end() -> None:
        if os.getpid() == process:
            server.kill()
            server.wait()
            directory.cleanup()

    atexit.register(end)
    return address


# In the server


def _serve(address: str) -> NoReturn:
    import beam_jobs.cli.commands
    import beam_jobs.cli.main
    import beam_jobs.runners.pipeline

    for command in beam_jobs.cli.commands.COMMANDS.values():
        command.load()
    assert threading.active_count() == 1, "a fork copies one thread alone"
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        listener.settimeout(_POLL_SECONDS)
        while os.getppid() == parent:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                listener.close()
                _handle(connection)
            connection.close()
    sys.exit()


def _handle(connection: socket.socket) -> NoReturn:
    """Fork for one command, and tell its process number and its status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.settimeout(None)
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(8))
    files = array.array("i", ancillary[0][2])
    with connection.makefile() as file:
        request = json.loads(file.read())
    process = os.fork()
    if process == 0:
        connection.close()
        _become(request, files)
    connection.sendall(f"{process}\n".encode())
    _, status = os.waitpid(process, 0)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    connection.sendall(f"{os.waitstatus_to_exitcode(status)} {peak}\n".encode())
    os._exit(0)


def _become(request: Any, files: array.array[int]) -> NoReturn:
    """Become the command."""
    from beam_jobs import __main__

    for number, file in enumerate(files, 1):
        os.dup2(file, number)
        os.close(file)
    resource.setrlimit(resource.RLIMIT_DATA, (request["memory"], request["memory"]))
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [str(__main__.__file__), *request["words"]]
    sys.path[0] = request["directory"]  # as for `python -m`
    sys.modules["__main__"] = __main__  # which the processes that it spawns import
    __main__.command()


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])
    _serve(sys.argv[1])
