"""The errors of a job, with their exit statuses.

```
JobError           the job failed; exit status 1
├── UsageError     it cannot start: a wrong option, INPUT or OUTPUT; exit status 2
├── Interrupted    its user ended it; exit status 130
└── LostJobError   its engine cannot be reached any more, or another job has taken OUTPUT; exit status 1
```
"""

from __future__ import annotations

__all__ = ["Interrupted", "JobError", "LostJobError", "UsageError"]


class JobError(Exception):
    """A job that failed. The message tells the user the defect, its place, and a remedy."""

    exit_status = 1


class UsageError(JobError):
    """A job that cannot start: an option, INPUT or OUTPUT is wrong."""

    exit_status = 2


class Interrupted(JobError):
    """A job that its user ended, by Ctrl-C or a signal."""

    exit_status = 130


class LostJobError(JobError):
    """A job on an engine that cannot be reached any more, or whose lock another job has: OUTPUT is not its own."""
