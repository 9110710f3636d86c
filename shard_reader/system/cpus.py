"""The number of CPUs for this process."""

from __future__ import annotations

import os

__all__ = ["available_cpus", "cpus_of_this_rank", "local_world_size"]


def available_cpus() -> int:
    """The number of CPUs that this process may run on: in a container or a batch job, fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpus_of_this_rank() -> int:
    """The part of the CPUs for this process, where it shares them with other ranks on this machine; at least 1."""
    return max(1, available_cpus() // local_world_size())


def local_world_size() -> int:
    """The number of the job's ranks on this machine, if the launcher sets `LOCAL_WORLD_SIZE`, as torchrun; else 1."""
    found = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(found)) if found.isdecimal() else 1
