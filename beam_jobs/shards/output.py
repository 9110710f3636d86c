"""OUTPUT while a job holds it: its owner, its finished work, and the removal of both.

```
OUT/_image-shards.lock       made first, removed last: marks OUT as unfinished and written by image-shards
OUT/_spill/                  the listing while it is sorted (on a disk)
OUT/_work/job.json           identity of the job: only the same job resumes this work
OUT/_work/owned.json         files of a dataset whose removal has begun
OUT/_work/plan/              the references of each split, the tasks, and each robots.txt that decides about inputs
OUT/_work/DIGEST/hashed/     the hashes of inputs, where duplicates are to be dropped
OUT/_work/DIGEST/measured/   the sums over the pixels of a shard, each in a file
OUT/_work/DIGEST/attempts/   shards being written, each attempt in a folder of its own (on a disk)
OUT/_work/DIGEST/shards/     a folder for each finished shard: its files (on a disk), and their description
```

On a disk, finished shards wait in `_work` for the others. A store has no renames: files get their final names at once,
parts of others wait in `shards-parts/`. Concurrent attempts write the same bytes, so that the order does not matter.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from beam_jobs.errors import LostJobError, UsageError
from beam_jobs.metadata.papers import foreign_papers
from beam_jobs.plan.tasks import TASKS_NAME, read_tasks
from beam_jobs.shards.lock import Lock, locked
from beam_jobs.shards.owned_files import (
    METADATA,
    TEMPORARY,
    delete_unpublished,
    expected_sizes,
    files_of,
    is_name_of_dataset,
    remove_empty,
    sizes_in,
)
from beam_jobs.terminal import counted, print_warning
from shard_reader.errors import DatasetError
from shard_reader.format.manifest import (
    FORMATS,
    LOCK_NAME,
    MANIFEST_NAME,
    Fingerprint,
    Manifest,
    dali_name,
    index_name,
    shard_name,
)
from shard_reader.printable import printable
from shard_reader.storage.directory import Directory
from shard_reader.storage.open import directory

__all__ = ["PLAN", "Output", "Work", "claimed", "output_directory"]

WORK = "_work"
PLAN = f"{WORK}/plan/"
_JOB = f"{WORK}/job.json"
_OWNED = f"{WORK}/owned.json"
_SPILL = "_spill"
_ROBOTS = re.compile(r"robots-[0-9a-f]{32}\.txt")
_UNREADABLE = (ValueError, TypeError, KeyError, RecursionError)  # errors of JSON that another program wrote


def output_directory(place: str) -> Directory:
    """The directory at OUTPUT.

    Raises:
        UsageError: no installed package can write there.
    """
    try:
        return directory(place)
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(f"OUTPUT {place}: {error}") from error


@dataclass(frozen=True, slots=True)
class Work:
    """Paths of a job's work inside OUTPUT."""

    # Every path has the job's digest in it, and only the launcher makes these folders. A straggler of another job, or
    # of one that is over, finds no folder to write to: it can neither bring OUTPUT back nor have its shard taken for
    # one of this job.

    digest: str

    @property
    def measured(self) -> str:
        """Folder of the sums over the pixels of shards."""
        return f"{WORK}/{self.digest}/measured"

    @property
    def hashed(self) -> str:
        """Folder of the hashes of inputs."""
        return f"{WORK}/{self.digest}/hashed"

    @property
    def attempts(self) -> str:
        """Folder of the shards that are being written."""
        return f"{WORK}/{self.digest}/attempts"

    @property
    def shards(self) -> str:
        """Folder of the finished shards."""
        return f"{WORK}/{self.digest}/shards"


@dataclass(frozen=True, slots=True)
class Output:
    """An OUTPUT directory that this process holds, by a lock unless its dataset is finished."""

    place: str
    files: Directory
    lock: Lock = field(default_factory=Lock)

    def manifest(self) -> Manifest | None:
        """The manifest of the dataset in OUTPUT; None if there is no dataset.

        Raises:
            UsageError: another program wrote the manifest, or it has another version.
        """
        try:
            data = self.files.read(MANIFEST_NAME)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            manifest = Manifest.from_json(data.decode("utf-8"))
        except (DatasetError, ValueError) as error:
            raise UsageError(f"OUTPUT {self.place}: {error}") from error
        # An index of foreign TFRecords names files of another program: --overwrite would remove them.
        if manifest.fields["image"].feature is not None:
            raise UsageError(
                f"OUTPUT {self.place}: holds TFRecords that others wrote, indexed where they are; give another place"
            )
        return manifest

    def job(self) -> dict[str, Any] | None:
        """The identity that `begin` stored for the unfinished job in OUTPUT; None if there is no such job."""
        try:
            data = self.files.read(_JOB)
        except (FileNotFoundError, NotADirectoryError):  # not OSError: an unreadable job must not count as no job
            return None
        try:
            found = json.loads(data)
            _digest(found)
        except _UNREADABLE:
            return None
        return dict(found)

    def work(self) -> Work | None:
        """Paths of the unfinished job in OUTPUT; None if there is no such job."""
        job = self.job()
        return Work(_digest(job)) if job is not None else None

    def begin(self, job: Mapping[str, Any]) -> Work:
        """Make the folders of the job's work. Keep the finished work of the same job, and remove any other.

        Raises:
            LostJobError: another job has taken the lock.
        """
        self.lock.renew()
        left = self.job()
        removing = _OWNED.rpartition("/")[2] in self.files.names(WORK)
        if removing or left is None or left["fingerprint"] != job["fingerprint"]:
            self.clear()
        work = Work(_digest(job))
        # The old plan stays until the new one replaces it: both are of the same job, so they are the same, and until
        # then the old one names the files of this job.
        self.files.delete_folder(work.attempts)
        if self.files.local is not None:
            for name in (work.attempts, PLAN, work.hashed, work.measured, work.shards):
                (self.files.local / name).mkdir(parents=True, exist_ok=True)
        self.files.write(_JOB, [json.dumps(job).encode()])
        return work

    def install(self, paths: Iterable[Path]) -> None:
        """Move the files of the plan to their place in OUTPUT."""
        for path in paths:
            self.files.put(path, PLAN + path.name)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for data larger than memory: on OUTPUT's disk, or in the system's temporary folder."""
        if self.files.local is None:
            with tempfile.TemporaryDirectory(prefix="image-shards-") as folder:
                yield Path(folder)
            return
        path = self.files.local / _SPILL
        self.files.delete_folder(_SPILL)  # a job that was killed may have left one
        path.mkdir()
        try:
            yield path
        finally:
            self.files.delete_folder(_SPILL)

    @contextlib.contextmanager
    def staging(self) -> Iterator[str | None]:
        """A folder for shards before their upload; None if OUTPUT is on a disk."""
        # The launcher owns the folder, since a worker process that is killed removes nothing.
        if self.files.local is not None:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="image-shards-") as folder:
            yield folder

    def copy_robots(self, folder: Path) -> None:
        """Copy the robots.txt of hosts that an earlier run of the job has kept."""
        for name in self.files.names(PLAN.rstrip("/")):
            if _ROBOTS.fullmatch(name):
                (folder / name).write_bytes(self.files.read(PLAN + name))

    def finished(self) -> int:
        """Number of finished shards of the unfinished job."""
        work = self.work()
        return len(self.files.names(work.shards)) if work else 0

    def measured(self) -> int:
        """Number of measured shards, where statistics are needed before the writing."""
        work = self.work()
        return sum(not name.startswith(".") for name in self.files.names(work.measured)) if work else 0

    def hashed(self) -> int:
        """Number of hashed parts of the inputs, where duplicates are to be dropped."""
        work = self.work()
        return sum(not name.startswith(".") for name in self.files.names(work.hashed)) if work else 0

    def kept(self, overwrite: bool) -> str:
        """A line about the work that an interrupted run leaves for the next one; "" if there is no such work."""
        finished, measured, hashed = self.finished(), self.measured(), self.hashed()
        # Beside a finished dataset, `leave` removes the work.
        if self.manifest() is not None or not (finished or measured or hashed):
            return ""
        shards = self.planned()
        of = f" of {counted(shards, 'shard')}" if shards else " shards"
        done = f"{finished}{of} finished" if finished else f"{measured}{of} measured"
        if not finished and not measured:
            done = f"{counted(hashed, 'part')} of the inputs hashed"
        command = "the same command without --overwrite" if overwrite else "the same command"
        return f"{done} and kept: {command} goes on from there"

    def planned(self) -> int | None:
        """Number of shards of the plan; None if there is no plan yet."""
        if TASKS_NAME not in self.files.names(PLAN.rstrip("/")):
            return None
        with contextlib.suppress(*_UNREADABLE):
            return sum(1 for _ in read_tasks(self.files, PLAN + TASKS_NAME))
        return None

    def clear(self) -> None:
        """Remove the files of an unfinished job, and the rest of a dataset whose removal had begun."""
        # Files are removed by name, as a manifest or a plan lists them, never by a pattern such as "*.tfrecord":
        # OUTPUT may hold files of its user. (The pattern of temporary files is of their random suffix.)
        names = self.files.names()
        doomed = {name for name in names if TEMPORARY.fullmatch(name)}
        if MANIFEST_NAME not in names:
            doomed |= self._owned() & {*names, *sizes_in(self.files)}
        doomed -= set(foreign_papers(self.files))
        self.files.delete_all(sorted(doomed))
        remove_empty(self.files, {name.rpartition("/")[0] for name in doomed} - {""})
        # Last: until then it names the files of the job, for a next run if this one is interrupted.
        self.files.delete_folder(WORK)

    def discard(self) -> None:
        """Remove the dataset in OUTPUT and the work of any job, and no other file.

        Raises:
            LostJobError: another job has taken the lock.
        """
        self.lock.renew()
        manifest = self.manifest()
        if manifest is not None:
            if self.files.local is not None:
                (self.files.local / WORK).mkdir(exist_ok=True)
            sizes = sizes_in(self.files)
            expected = expected_sizes(manifest)
            ours = (files_of(manifest) - set(foreign_papers(self.files))) & sizes.keys()
            removed = {name: sizes[name] for name in sorted(ours) if sizes[name] == expected.get(name, sizes[name])}
            self._name_others(sorted((ours | expected.keys() & sizes.keys()) - removed.keys()))
            delete_unpublished(self.files, manifest)
            # The list is written before the manifest goes: a run that is interrupted in between leaves either a whole
            # dataset or the names of the files that are left to remove.
            self.files.write(_OWNED, [json.dumps(removed).encode()])
            self.files.delete(MANIFEST_NAME)
        self.clear()

    def _name_others(self, names: Sequence[str]) -> None:
        """Name the files that the manifest names, and that are not of the dataset: they stay."""
        if names:
            named = ", ".join(map(printable, names[:3])) + (", ..." if len(names) > 3 else "")
            print_warning(
                f"warning: OUTPUT {self.place}: {named}: not of the name or the size that a file of the dataset has;"
                " left as it is, unless the new dataset has a file of that name"
            )

    def _owned(self) -> set[str]:
        """File names in OUTPUT of an unfinished job, or of a dataset whose removal had begun."""
        owned: set[str] = set()
        if self.planned() is not None:
            owned.update(METADATA)
            for task in read_tasks(self.files, PLAN + TASKS_NAME):
                for format in FORMATS:
                    name = shard_name(task.split, task.number, task.count, format)
                    owned |= {name, index_name(name), dali_name(name)}
        with contextlib.suppress(FileNotFoundError, *_UNREADABLE):
            listed = json.loads(self.files.read(_OWNED))
            sizes = sizes_in(self.files)
            # Earlier versions listed the names alone.
            given = listed.items() if isinstance(listed, dict) else ((name, sizes.get(name)) for name in listed)
            owned.update(name for name, size in given if sizes.get(name, -1) == size and is_name_of_dataset(name))
        return owned

    def leave(self) -> bool:
        """Remove the work, unless a next run can resume it. Returns whether all of it is removed."""
        self.files.delete_folder(_SPILL)
        work = self.work()
        if work is not None:
            self.files.delete_folder(work.attempts)
        if self.manifest() is None and (self.finished() or self.measured() or self.hashed()):
            return False
        self.clear()
        return True


def _digest(job: Mapping[str, Any]) -> str:
    return Fingerprint(**job["fingerprint"]).digest


@contextlib.contextmanager
def claimed(place: str, *, overwrite: bool = False) -> Iterator[Output]:
    """Hold OUTPUT: make it if need be, keep other jobs off it, and remove all work at the end that cannot be resumed.

    A finished dataset that is not to be overwritten is not locked, since nothing changes in it.

    Raises:
        UsageError: OUTPUT has files of another origin, or another job holds it.
    """
    output = Output(place, output_directory(place))
    local = output.files.local
    created = _make(place, local) if local is not None else []
    try:
        names = set(output.files.names())
        finished = MANIFEST_NAME in names and LOCK_NAME not in names
        if finished and not overwrite:
            yield output
            return
        if names and not finished and LOCK_NAME not in names:
            raise UsageError(f"OUTPUT {place}: is not empty, and holds no dataset of image-shards")
        if finished:
            output.manifest()  # may raise: before the lock file, which would mark the dataset as unfinished
        with locked(place, output.files) as lock:
            try:
                yield replace(output, lock=lock)
            except LostJobError:
                raise  # the job may still be running and writing to OUTPUT, or another one is
            except Exception:
                lock.check()
                with contextlib.suppress(Exception):  # the first error is the one to report
                    _leave(output, lock)
                raise
            except BaseException:
                lock.check()
                _leave(output, lock)
                raise
            lock.check()
            _leave(output, lock)
    finally:
        with contextlib.suppress(OSError):  # not empty: the dataset is there
            for path in created:
                path.rmdir()


def _leave(output: Output, lock: Lock) -> None:
    """Clear up, then remove the lock file. While work is left, the file tells the next job that it may resume."""
    try:
        is_clear = output.leave()
    except KeyboardInterrupt:
        # The command ignores signals after the first, so this second attempt runs to its end.
        if output.leave():
            lock.remove()
        raise
    if is_clear:
        lock.remove()


def _make(place: str, path: Path) -> list[Path]:
    """Make a local OUTPUT, and return the directories that this call created."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"OUTPUT {place}: is a file; give a directory")
    created = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"OUTPUT {place}: cannot be made ({error.strerror})") from error
    return created
