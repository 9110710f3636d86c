"""A machine without a network: each store is given up after a moment, by an error that says so."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator

import fsspec
import pytest
from support.clock import ThreadClock

from shard_reader.storage import object_store, retry
from shard_reader.storage.open import directory
from shard_reader.storage.store_errors import has_unknown_host

URLS = ["s3://bucket/photos", "gs://bucket/photos", "az://container/photos", "https://example.com/table.csv"]
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AZURE_STORAGE_ACCOUNT_NAME": "account",
    "AZURE_STORAGE_ACCOUNT_KEY": "a2V5",
}
EMULATORS = ("STORAGE_EMULATOR_HOST", "AZURE_STORAGE_CONNECTION_STRING", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


@pytest.fixture(autouse=True)
def lookups(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> Iterator[list[str]]:
    """The hosts whose names were looked up, in vain. Pauses of `retry` pass at once."""
    names: list[str] = []

    def unknown(host: str, *_: object, **__: object) -> list[object]:
        names.append(str(host))
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    for name in (*EMULATORS, "FSSPEC_GS_TOKEN", "NO_GCE_CHECK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(retry, "time", ThreadClock())
    monkeypatch.setattr(retry, "_network", retry._Network())
    forget()
    yield names
    os.environ.pop("NO_GCE_CHECK", None)
    forget()


def forget() -> None:
    """Drop file systems, and the place of each, that tests before have used."""
    object_store._skip_metadata_server.cache_clear()
    for scheme in ("s3", "gs", "az", "https"):
        fsspec.get_filesystem_class(scheme).clear_instance_cache()


@pytest.mark.parametrize("url", URLS)
def test_without_a_network_a_store_is_given_up_after_a_moment(
    url: str, lookups: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(OSError, match=r"cannot be reached .*; check the network"):
        directory(url).exists()
    # Whether Google's library logs depends on the loggers that others have set up before. Commands silence it.
    assert not [record for record in caplog.records if not record.name.startswith("google.")]
    assert len(lookups) < 50


@pytest.mark.parametrize("url", URLS)
def test_libraries_ask_once(url: str, lookups: list[str]) -> None:
    files = directory(url)
    del lookups[:]
    with pytest.raises(Exception) as caught:
        files.read_once("", 0, 10)
    assert has_unknown_host(caught.value)
    assert 1 <= len(lookups) <= 2  # by the library, and before that by this package itself, where it may


def test_a_network_that_was_there_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ThreadClock()
    monkeypatch.setattr(retry, "time", clock)
    calls: list[None] = []

    def call() -> None:
        calls.append(None)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    for seconds, reached in ((1.0, False), (60.0, True)):
        retry._network.reached = reached
        before = clock.monotonic()
        with pytest.raises(socket.gaierror):
            retry.retried(call, 60.0)
        assert clock.monotonic() - before == pytest.approx(seconds)
    assert retry.retried(lambda: 1, 60.0) == 1 and retry._network.reached
