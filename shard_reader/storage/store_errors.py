"""Errors of the stores' libraries, with a remedy, without credentials."""

from __future__ import annotations

import errno
import os
import re
import socket

from shard_reader.storage.secrets import without_secrets

__all__ = ["NO_CREDENTIALS", "answer", "as_os_error", "explain", "has_unknown_host"]

# By name, since the libraries of the stores are not imported here.
NO_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}
    | {"DefaultCredentialsError", "RefreshError", "CredentialUnavailableError", "UnauthorizedSSOTokenError"}
    | {"TokenRetrievalError", "SSOTokenLoadError", "NoRegionError"}
)
_NOT_REACHED = frozenset(
    {"EndpointConnectionError", "ConnectTimeoutError", "ConnectionClosedError", "ClientConnectorError"}
    | {"ClientConnectorDNSError", "ServiceRequestError", "ConnectionRefusedError", "TransportError", "gaierror"}
)
_TOO_LATE = frozenset({"FSTimeoutError", "TimeoutError", "ReadTimeoutError", "ServerTimeoutError"})
_NOT_KNOWN = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired"}
    | {"AuthorizationFailure", "AuthenticationFailed", "InvalidAuthenticationInfo", "InvalidSecurity", "401"}
)
_NOT_ALLOWED = frozenset(
    {"AccessDenied", "Forbidden", "403", "AllAccessDisabled", "AuthorizationPermissionMismatch"}
    | {"InsufficientAccountPermissions", "AuthorizationSourceIPMismatch"}
)
_OTHER_REGION = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})

# The variables that each library reads, and its other sources of credentials.
_CREDENTIALS = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (for a public bucket: FSSPEC_S3_ANON=true)",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login` (for a public bucket:"
    " FSSPEC_GS_TOKEN=anon)",
    "az": "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or"
    " AZURE_STORAGE_SAS_TOKEN, or AZURE_STORAGE_ACCOUNT_NAME alone and run `az login`",
}
_PERMISSIONS = {
    "s3": "it takes s3:ListBucket, s3:GetObject and, to write, s3:PutObject and s3:DeleteObject",
    "gs": "it takes the role Storage Object Viewer or, to write, Storage Object User",
    "az": "it takes the role Storage Blob Data Reader or, to write, Storage Blob Data Contributor",
}
_ENDPOINTS = {"s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "gs": ("STORAGE_EMULATOR_HOST",)}
_STORES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
_OF_LIBRARIES = {"botocore": "s3", "aiobotocore": "s3", "gcsfs": "gs", "google": "gs", "azure": "az", "adlfs": "az"}
_MISTAKES = (TypeError, ValueError, LookupError, AttributeError, ImportError, NotImplementedError)
_LONGEST_CHAIN = 100  # errors of an error, looked at for its cause
_UPLOAD = re.compile(r"/b/([^/?]+)/o$")  # the end of the URL that gcsfs uploads to


def explain(error: Exception, url: str = "") -> str:
    """The cause of an error and its remedy, in one line without credentials.

    Args:
        error: an error of a library.
        url: the URL of the request, for errors that do not show the kind of store.
    """
    kind, code, said = _kind(error, url), _code(error), _said(error)
    names = {type(one).__name__ for one in (error, error.__cause__, getattr(error, "os_error", None))}
    if code in _NO_BUCKET or "No such container" in said:
        return f"there is no such {'container' if kind == 'az' else 'bucket'}{_endpoint(kind, ', asked at {1} ({0})')}"
    if isinstance(error, FileNotFoundError) and (found := _UPLOAD.search(said)):
        return f"there is no bucket {found[1]}"
    if kind in _CREDENTIALS:
        if names & NO_CREDENTIALS or "Anonymous caller" in said or "unable to connect to account" in said:
            return f"no credentials that can be used ({said}); {_CREDENTIALS[kind]}"
        if code in _NOT_KNOWN or "ClientAuthenticationError" in names:
            return f"the store does not accept the credentials ({said}); {_CREDENTIALS[kind]}"
        if code in _NOT_ALLOWED or isinstance(error, PermissionError) or said.startswith("Forbidden"):
            return f"no permission ({said}); {_PERMISSIONS[kind]}; for other credentials, {_CREDENTIALS[kind]}"
        if code in _OTHER_REGION:
            return f"the bucket is in another region ({said}); set AWS_DEFAULT_REGION"
    if names & _TOO_LATE:
        return f"does not answer in time ({said}); check the network{_endpoint(kind, ', and {0}, which is {1}')}"
    if names & _NOT_REACHED:
        return f"cannot be reached ({said}); check the network{_endpoint(kind, ', and {0}, which is {1}')}"
    return said


def as_os_error(error: Exception, url: str) -> Exception:
    """An error of a store's library as an `OSError` that names `url` and a remedy.

    Python's own errors about the file, mistakes of the caller, and explained errors stay as they are.
    """
    if isinstance(error, (NotADirectoryError, IsADirectoryError, EOFError, MemoryError, *_MISTAKES)):
        return error
    # A file name shows that the error was explained, but libraries give their FileNotFoundError one, too.
    if isinstance(error, OSError) and error.filename is not None and not isinstance(error, FileNotFoundError):
        return error
    status = answer(error)[0]
    text, names = explain(error, url), {type(error).__name__}
    if isinstance(error, FileNotFoundError):
        explained: OSError = FileNotFoundError(errno.ENOENT, text, url)
    elif isinstance(error, PermissionError) or status in (401, 403) or names & NO_CREDENTIALS:
        explained = PermissionError(errno.EACCES, text, url)
    else:
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
        explained = OSError(number, text, url)
    # `answer` finds the status here, so that an explained error is retried, or not, as the original would be.
    explained.status = status  # type: ignore[attr-defined]
    return explained


def _kind(error: BaseException, url: str) -> str:
    """The kind of store: "s3", "gs", "az", or else the scheme of the URL."""
    for one in (error, error.__cause__):
        package = type(one).__module__.partition(".")[0]
        if package in _OF_LIBRARIES:
            return _OF_LIBRARIES[package]
    if str(error).startswith("Forbidden: http"):  # an OSError of gcsfs's
        return "gs"
    scheme = url.partition("://")[0]
    return _STORES.get(scheme, scheme)


def _code(error: BaseException) -> str:
    """The store's error code, or the status of its answer."""
    status, code = answer(error)
    return code or str(status or "")


def answer(error: BaseException) -> tuple[int, str]:
    """The status of a store's answer (0 without an answer), and its error code."""
    for one in (error, error.__cause__):
        if type(one).__module__ == "aiohttp.http_exceptions":
            continue  # aiohttp gives answers that it cannot parse a status 400 of its own
        response = getattr(one, "response", None)  # botocore's
        if isinstance(response, dict):
            status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            return status, str(response.get("Error", {}).get("Code", ""))
        for name in ("status", "status_code", "code"):  # aiohttp's, azure's, gcsfs's
            number = getattr(one, name, None)
            if isinstance(number, int):
                found = getattr(one, "error_code", "") or ""  # azure's
                return number, str(getattr(found, "value", found))
    return (403, "") if str(error).startswith("Forbidden") else (0, "")  # gcsfs's


def has_unknown_host(error: BaseException) -> bool:
    """Whether an error comes from the name of a host that could not be looked up."""
    seen: list[BaseException | None] = [error]
    for one in seen:  # grows meanwhile
        if isinstance(one, socket.gaierror):
            return True
        if one is not None and len(seen) < _LONGEST_CHAIN:
            seen += [one.__cause__, one.__context__, getattr(one, "os_error", None)]  # the last one is aiohttp's
    return False


def _said(error: Exception) -> str:
    """The error's first line."""
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).strip()
    first, *rest = text.splitlines() or [type(error).__name__]
    if first.endswith(":") and rest:  # botocore's, of parameters
        first = f"{first} {rest[0].strip()}"
    return without_secrets(first.rstrip(". "))


def _endpoint(kind: str, text: str) -> str:
    """`text` with the variable for the store's address, and its value; empty if none is set."""
    # A store that does not answer may be at the wrong address, which users set and forget.
    for name in _ENDPOINTS.get(kind, ()):
        if os.environ.get(name):
            return text.format(name, without_secrets(os.environ[name]))
    return ""
