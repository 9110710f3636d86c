"""Conditional writes: an object is stored only under a free name, or in place of the one that was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from fsspec.asyn import AsyncFileSystem, sync

from shard_reader.storage.store_errors import answer

__all__ = ["put_if", "tag_of"]

_Put = Callable[[Any, str, bytes, str | None, float], str]
_FAILED = (409, 412)  # statuses of a condition that does not hold; 409 also of two writes at the same moment
_UNKNOWN = (501,)  # of servers that do not know such conditions


def put_if(file_system: Any, path: str, data: bytes, tag: str | None, timeout: float) -> str | None:
    """Store an object if the one with `tag` is there; with None, if there is no object.

    Returns:
        The tag of the new object; None if the condition does not hold.

    Raises:
        NotImplementedError: this store, or its library here, has no conditional writes.
        Exception: an error of the library.
    """
    put: _Put | None = _of(_PUTS, file_system)
    # Somebody may have registered another file system for a store's protocol.
    if put is None or not isinstance(file_system, AsyncFileSystem):
        raise NotImplementedError(f"there are no conditional writes to {file_system.protocol}")
    try:
        return put(file_system, path, data, tag, timeout)
    except FileExistsError:
        return None
    except Exception as error:
        status = answer(error)[0] or answer(error.__cause__ or error)[0]
        if status in _UNKNOWN:
            raise NotImplementedError("the store does not know conditional writes") from error
        # S3 calls an object missing that is to be replaced, and is not there.
        if status in _FAILED or (tag is not None and isinstance(error, FileNotFoundError)):
            return None
        raise


def tag_of(file_system: Any, info: Mapping[str, Any]) -> str | None:
    """The tag of an object that fsspec describes; None for a folder, and where there are no tags."""
    name = _of(_TAGS, file_system)
    found = info.get(name) if name is not None else None
    return None if found is None else str(found)


def _s3(file_system: Any, path: str, data: bytes, tag: str | None, timeout: float) -> str:
    bucket, key, _ = file_system.split_path(path)
    condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
    stored = file_system.call_s3("put_object", Bucket=bucket, Key=key, Body=data, timeout=timeout, **condition)
    return str(stored["ETag"])


def _google(file_system: Any, path: str, data: bytes, tag: str | None, timeout: float) -> str:
    bucket, key, _ = file_system.split_path(path)
    url = f"{file_system._location}/upload/storage/v1/b/{quote(bucket)}/o"
    words = {"uploadType": "media", "name": key, "ifGenerationMatch": "0" if tag is None else tag}
    stored = file_system.call("POST", url, data=data, json_out=True, timeout=timeout, **words)
    return str(stored["generation"])


def _azure(file_system: Any, path: str, data: bytes, tag: str | None, timeout: float) -> str:
    from azure.core import MatchConditions

    container, blob, _ = file_system.split_path(path)
    missing = {"match_condition": MatchConditions.IfMissing}
    condition = missing if tag is None else {"etag": tag, "match_condition": MatchConditions.IfNotModified}

    async def upload() -> str:
        async with file_system.service_client.get_blob_client(container, blob) as client:
            return str((await client.upload_blob(data, overwrite=True, **condition))["etag"])

    stored: str = sync(file_system.loop, upload, timeout=timeout)
    return stored


_PUTS: dict[str, _Put] = {"s3": _s3, "gs": _google, "abfs": _azure}
_TAGS = {"s3": "ETag", "gs": "generation", "abfs": "etag"}


def _of(table: Mapping[str, Any], file_system: Any) -> Any:
    """The entry of a file system's protocol; None if there is no entry."""
    protocols = file_system.protocol
    names = (protocols,) if isinstance(protocols, str) else protocols
    return next((table[name] for name in names if name in table), None)
