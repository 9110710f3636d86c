"""Credentials in URLs, kept out of messages: passwords, keys, signatures."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["host_of", "unsigned", "without_secrets"]

# A user: up to an @ before the first slash. A password after a colon may have slashes, as keys of S3 do; a colon
# may also come before a port.
_USER = re.compile(r"(?<=://)(?:[^/@\s]*|[^/@\s:]+:(?!\d+(?:/|$))[^@\s]*)@")
# The parameters of presigned URLs (X-Amz-Signature, X-Goog-Credential), Azure's (sig), and others that grant access.
_SECRET = r"(?:[\w.-]*(?:signature|credential|token|secret|password|passwd|key|auth)[\w.-]*|sig)"
_PARAMETER = re.compile(rf"([?&]{_SECRET}=)[^&\s'\"<>]+", re.IGNORECASE)
# The parameters beside a signature: its time, its duration, its scope.
_OF_SIGNATURE = re.compile(
    rf"{_SECRET}|x-(?:amz|goog)-.*|expires|policy|googleaccessid"
    "|s[vtresp]|spr|sip|srt|ss|sdd|skoid|sktid|skt|ske|sks|skv",
    re.IGNORECASE,
)
_NAMED = re.compile(r"((?:AccountKey|SharedAccessSignature|aws_secret_access_key)\s*=\s*)[^;\s'\"]+", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """A text without the credentials of its URLs: users and passwords are left out, signatures and keys are `***`."""
    if "@" in text:
        text = _USER.sub("", text)
    if "=" in text:
        text = _NAMED.sub(r"\1***", _PARAMETER.sub(r"\1***", text))
    return text


def unsigned(url: str) -> str:
    """A URL without user, password, signature, and the parameters of the signature.

    It stays the same when the URL is signed again.
    """
    url = _USER.sub("", url)
    if not _PARAMETER.search(url):
        return url
    place, _, query = url.partition("?")
    kept = [part for part in query.split("&") if not _OF_SIGNATURE.fullmatch(part.partition("=")[0])]
    return "?".join([place, "&".join(kept)] if kept else [place])


def host_of(url: str) -> str:
    """The host of a URL, with its port, in lower case, without user and password."""
    return urlsplit(url).netloc.rpartition("@")[2].lower()
