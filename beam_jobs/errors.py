"""How a job ends when it does not end well.

```
JobError           the job failed; exit status 1
├── UsageError     it cannot start: a wrong option, INPUT or OUTPUT; exit status 2
├── Interrupted    its user ended it; exit status 130
└── LostJobError   it cannot be asked any more, and may still run; exit status 1
```
"""

from __future__ import annotations

__all__ = ["Interrupted", "JobError", "LostJobError", "UsageError"]


class JobError(Exception):
    """A job that failed, with a message for its user: what, where, and what to do."""

    exit_status = 1


class UsageError(JobError):
    """A job that cannot start as it was asked for."""

    exit_status = 2


class Interrupted(JobError):
    """A job that its user ended."""

    exit_status = 130


class LostJobError(JobError):
    """A job on an engine that cannot be asked any more, and may still be writing to OUTPUT."""
