"""The retries of the stores' libraries, which are turned off: `retry` makes all of them, within one bound."""

from __future__ import annotations

import types
from typing import Any

__all__ = ["without_retries"]


def without_retries(file_system: Any) -> None:
    """Have the library of one of fsspec's file systems make each request once."""
    # The libraries offer no option for it. By default, gcsfs asks six times in half a minute and logs a traceback;
    # Azure's asks four times in a minute; s3fs asks without a bound on the time.
    if hasattr(file_system, "retries"):
        file_system.retries = 1
    once = getattr(getattr(type(file_system), "_request", None), "__wrapped__", None)
    if once is not None:
        file_system._request = types.MethodType(once, file_system)
    policy = getattr(getattr(getattr(file_system, "service_client", None), "_config", None), "retry_policy", None)
    if policy is not None:
        policy.total_retries = 0
