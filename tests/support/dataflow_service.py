"""Dataflow as its client sees it, on this machine: what is asked of it, and what is staged for its workers."""

from __future__ import annotations

import base64
import bz2
import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

JOB_ID = "2026-01-02_03_04_05-678"


@dataclass
class Service:
    """A job is in the next of `states` whenever it is looked at, until it is asked to be cancelled.

    `requests` are the method, the path and the JSON of each request, `staged` the files by their names, all of
    them in one place, `messages` what the job says of itself. `on_look` is called before a look is answered.
    `refused` are methods that the caller may not use.
    """

    states: Sequence[str] = ("JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_DONE")
    messages: list[dict[str, str]] = field(default_factory=list)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    staged: dict[str, bytes] = field(default_factory=dict)
    places: set[str] = field(default_factory=set)
    on_look: Callable[[Service], None] = lambda service: None
    refused: tuple[str, ...] = ()
    endpoint: str = ""
    looks: int = 0

    @property
    def job(self) -> Any:
        """The job that was asked for last."""
        return [body for method, _, body in self.requests if method == "POST"][-1]

    @property
    def pipeline(self) -> Any:
        """The pipeline that was staged, as a message."""
        from apache_beam.portability.api import beam_runner_api_pb2

        return beam_runner_api_pb2.Pipeline.FromString(self.staged["pipeline.pb"])

    def answer(self, method: str, path: str, body: Any) -> Any:
        self.requests.append((method, path, body))
        if "/messages" in path:
            return {"jobMessages": self.messages}
        if method == "POST":
            self.looks = 0
        if method == "GET":
            self.on_look(self)
            self.looks += 1
        if method == "PUT":  # the numbers are those of Dataflow's JobState
            self.states, self.looks = {5: ("JOB_STATE_CANCELLING", "JOB_STATE_CANCELLED")}[body["requestedState"]], 0
        state = self.states[min(self.looks, len(self.states)) - 1] if self.looks else self.states[0]
        return {"id": JOB_ID, "name": "a-job", "currentState": state}

    def fail(self, text: str) -> None:
        """From now on the job has failed, and says so."""
        self.states = ("JOB_STATE_FAILED",)
        self.messages = [
            {"id": "1", "time": "2026-01-02T03:04:06Z", "messageText": text, "messageImportance": "JOB_MESSAGE_ERROR"}
        ]


@contextlib.contextmanager
def serving(service: Service) -> Iterator[None]:
    """Have `service` answer at its `endpoint`, a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command in service.refused:
                status, answer = 403, {"error": {"code": 403, "message": "you may not"}}
            else:
                status, answer = 200, service.answer(self.command, self.path, json.loads(body or b"null"))
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("localhost", 0), Handler) as server:
        service.endpoint = f"http://localhost:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def connect(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Beam's client of Dataflow meet `service` and nobody else, stage files in it, and not wait for seconds.

    The options keep Dataflow's own address: at localhost Beam checks no option, and asks for a job of another kind.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions
    from apache_beam.runners.dataflow import dataflow_runner
    from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient

    construct = DataflowApplicationClient.__init__

    def construct_here(self: Any, options: Any, *arguments: Any) -> None:
        cloud = options.view_as(GoogleCloudOptions)
        address, cloud.dataflow_endpoint = cloud.dataflow_endpoint, service.endpoint
        construct(self, options, *arguments)
        cloud.dataflow_endpoint = address

    def stage_file(self: Any, place: str, name: str, stream: BinaryIO, *_: Any, **__: Any) -> None:
        service.places.add(place)
        service.staged[name] = stream.read()

    monkeypatch.setenv("NO_GCE_CHECK", "true")  # otherwise the machine that gives credentials would be looked up
    look_up = socket.getaddrinfo

    def look_up_here(host: Any, *arguments: Any, **options: Any) -> Any:
        assert host == "localhost", f"{host} is not this machine"
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    monkeypatch.setattr(DataflowApplicationClient, "__init__", construct_here)
    monkeypatch.setattr(DataflowApplicationClient, "stage_file", stage_file)
    monkeypatch.setattr(GoogleCloudOptions, "_warn_if_soft_delete_policy_enabled", lambda self, name: None)
    time = dataflow_runner.time
    quick = SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(min(seconds, 0.01)))
    monkeypatch.setattr(dataflow_runner, "time", quick)


def unpacked(message: bytes) -> bytes:
    """A pipeline with the objects in it as bytes: Beam packs and encodes what it pickles."""
    texts = re.findall(rb"QlpoO[A-Za-z0-9+/]{16,}=*", message)
    return message + b"".join(map(unpacked_one, texts))


def unpacked_one(text: bytes) -> bytes:
    return bz2.decompress(base64.b64decode(text[: len(text) - len(text) % 4]))


def execute(pipeline: Any) -> None:
    """Run a staged pipeline in this process, as Dataflow's workers would."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    for environment in pipeline.components.environments.values():
        environment.urn, environment.payload = "beam:env:embedded_python:v1", b""
        del environment.dependencies[:]
    FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish()
