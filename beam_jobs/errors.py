"""How a job ends when it does not end well.

```
JobError           the job failed; exit status 1
└── UsageError     it cannot start: a wrong option, INPUT or OUTPUT; exit status 2
```
"""

from __future__ import annotations

__all__ = ["JobError", "UsageError"]


class JobError(Exception):
    """A job that failed, with a message for its user: what, where, and what to do."""

    exit_status = 1


class UsageError(JobError):
    """A job that cannot start as it was asked for."""

    exit_status = 2
