"""What of a URL nobody should see: passwords, keys, signatures."""

from __future__ import annotations

import re

__all__ = ["unsigned", "without_secrets"]

# Up to an @ before the first slash; or after a colon any characters, as keys of S3 have slashes, but a port is none.
_USER = re.compile(r"(?<=://)(?:[^/@\s]*|[^/@\s:]+:(?!\d+(?:/|$))[^@\s]*)@")
# Of presigned URLs (X-Amz-Signature, X-Goog-Credential), of Azure's (sig), and whatever else lets one in.
_SECRET = r"(?:[\w.-]*(?:signature|credential|token|secret|password|passwd|key|auth)[\w.-]*|sig)"
_PARAMETER = re.compile(rf"([?&]{_SECRET}=)[^&\s'\"<>]+", re.IGNORECASE)
# What a signature comes with: when it was made, for how long, for what.
_OF_SIGNATURE = re.compile(
    rf"{_SECRET}|x-(?:amz|goog)-.*|expires|policy|googleaccessid"
    "|s[vtresp]|spr|sip|srt|ss|sdd|skoid|sktid|skt|ske|sks|skv",
    re.IGNORECASE,
)
_NAMED = re.compile(r"((?:AccountKey|SharedAccessSignature|aws_secret_access_key)\s*=\s*)[^;\s'\"]+", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """A text in which URLs have no password and no signature: what lets one in is `***`, a user is left out."""
    if "@" in text:
        text = _USER.sub("", text)
    if "=" in text:
        text = _NAMED.sub(r"\1***", _PARAMETER.sub(r"\1***", text))
    return text


def unsigned(url: str) -> str:
    """A URL without user and password and, if it is signed, without all that the signature comes with.

    It is the same however often the URL is signed anew.
    """
    url = _USER.sub("", url)
    if not _PARAMETER.search(url):
        return url
    place, _, query = url.partition("?")
    kept = [part for part in query.split("&") if not _OF_SIGNATURE.fullmatch(part.partition("=")[0])]
    return "?".join([place, "&".join(kept)] if kept else [place])
