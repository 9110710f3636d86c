"""OUTPUT while a job holds it: whose it is, what of it is finished, and one job at a time.

```
OUT/_image-shards.lock       made first, removed last: OUT is this project's, and unfinished
OUT/_spill/                  the listing on its way into order (on a disk)
OUT/_work/job.json           which job it is: only the same one goes on with what is there
OUT/_work/owned.json         what of a dataset that is being removed is left to remove
OUT/_work/plan/              which image goes where
OUT/_work/DIGEST/hashed/     the hashes of inputs, where duplicates are to be dropped
OUT/_work/DIGEST/measured/   the sums over the pixels of a shard, each in a file
OUT/_work/DIGEST/attempts/   shards being written, each try in a folder of its own (on a disk)
OUT/_work/DIGEST/shards/     a folder for each finished shard: its files (on a disk), and what they are
```

On a disk a finished shard waits in `_work` for all the others. In an object store, where nothing can be
renamed, its files are put under their final names at once: whoever writes them, the bytes are the same.
DIGEST is that of the job, so that stragglers of another one find nothing to go on with.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beam_jobs.errors import LostJobError, UsageError
from beam_jobs.plan.tasks import TASKS_NAME, read_tasks
from beam_jobs.shards.lock import locked
from beam_jobs.terminal import counted
from shard_reader.errors import DatasetError
from shard_reader.format.manifest import (
    DUPLICATES_NAME,
    FORMATS,
    LOCK_NAME,
    MANIFEST_NAME,
    REJECTS_NAME,
    TFDS_NAMES,
    Fingerprint,
    Manifest,
    index_name,
    shard_name,
)
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.storage.directory import Directory
from shard_reader.storage.open import directory

__all__ = ["PLAN", "Output", "Work", "claimed", "output_directory"]

WORK = "_work"
PLAN = f"{WORK}/plan/"
_JOB = f"{WORK}/job.json"
_OWNED = f"{WORK}/owned.json"
_SPILL = "_spill"
_METADATA = (REJECTS_NAME, DUPLICATES_NAME, *TFDS_NAMES)
# What `write_whole` had of a file when it was cut off.
_TEMPORARY = re.compile(rf"\.({'|'.join(map(re.escape, (MANIFEST_NAME, *_METADATA)))})\.[0-9a-f]{{32}}")


def output_directory(place: str) -> Directory:
    """The directory at OUTPUT.

    Raises:
        UsageError: nothing here can write there.
    """
    try:
        return directory(place)
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(f"OUTPUT {place}: {error}") from error


@dataclass(frozen=True, slots=True)
class Work:
    """Where a job's own work is in OUTPUT."""

    digest: str

    @property
    def measured(self) -> str:
        """The sums over the pixels of shards."""
        return f"{WORK}/{self.digest}/measured"

    @property
    def hashed(self) -> str:
        """The hashes of inputs."""
        return f"{WORK}/{self.digest}/hashed"

    @property
    def attempts(self) -> str:
        """Shards being written."""
        return f"{WORK}/{self.digest}/attempts"

    @property
    def shards(self) -> str:
        """Finished shards."""
        return f"{WORK}/{self.digest}/shards"


@dataclass(frozen=True, slots=True)
class Output:
    """An OUTPUT directory that this process holds."""

    place: str
    files: Directory

    def manifest(self) -> Manifest | None:
        """The manifest of the dataset that is here, if one is.

        Raises:
            UsageError: another program wrote it, or it is of another version.
        """
        try:
            data = self.files.read(MANIFEST_NAME)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            manifest = Manifest.from_json(data.decode("utf-8"))
        except (DatasetError, ValueError) as error:
            raise UsageError(f"OUTPUT {self.place}: {error}") from error
        if manifest.fields["image"].feature is not None:  # and --overwrite would remove them
            raise UsageError(
                f"OUTPUT {self.place}: holds TFRecords that others wrote, indexed where they are; give another place"
            )
        return manifest

    def job(self) -> dict[str, Any] | None:
        """What `begin` was told by the job that left its work here, if one did."""
        try:
            data = self.files.read(_JOB)  # an error here is not the same as no job
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            found = json.loads(data)
            _digest(found)
        except (ValueError, TypeError, KeyError):
            return None
        return dict(found)

    def work(self) -> Work | None:
        """Where the work of the job that is here is."""
        job = self.job()
        return Work(_digest(job)) if job is not None else None

    def begin(self, job: Mapping[str, Any]) -> Work:
        """Make room for the job's work, and keep what the same job has finished."""
        left = self.job()
        removing = _OWNED.rpartition("/")[2] in self.files.names(WORK)
        if removing or left is None or left["fingerprint"] != job["fingerprint"]:
            self.clear()
        work = Work(_digest(job))
        # The plan of the same job is the same: until it is there again, it names the files of this job.
        self.files.delete_folder(work.attempts)
        if self.files.local is not None:
            for name in (work.attempts, PLAN, work.hashed, work.measured, work.shards):
                (self.files.local / name).mkdir(parents=True, exist_ok=True)
        self.files.write(_JOB, [json.dumps(job).encode()])
        return work

    def install(self, paths: Iterable[Path]) -> None:
        """Give the files of the plan their place."""
        for path in paths:
            self.files.put(path, PLAN + path.name)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for what is larger than memory: on the disk that OUTPUT is on, if it is on one."""
        if self.files.local is None:
            with tempfile.TemporaryDirectory(prefix="image-shards-") as folder:
                yield Path(folder)
            return
        path = self.files.local / _SPILL
        self.files.delete_folder(_SPILL)  # of a job that was killed
        path.mkdir()
        try:
            yield path
        finally:
            self.files.delete_folder(_SPILL)

    def finished(self) -> int:
        """How many shards of the job that is here are finished."""
        work = self.work()
        return len(self.files.names(work.shards)) if work else 0

    def measured(self) -> int:
        """How many are measured, for statistics that come before the writing."""
        work = self.work()
        return sum(not name.startswith(".") for name in self.files.names(work.measured)) if work else 0

    def hashed(self) -> int:
        """How many parts of the inputs are hashed, where duplicates are to be dropped."""
        work = self.work()
        return sum(not name.startswith(".") for name in self.files.names(work.hashed)) if work else 0

    def kept(self, overwrite: bool) -> str:
        """The work that a run which ended early leaves for the next one, in words; nothing if there is no such work."""
        finished, measured, hashed = self.finished(), self.measured(), self.hashed()
        # Beside a dataset that is as it was, the work goes.
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
        """How many shards the plan has, if it is there."""
        if TASKS_NAME not in self.files.names(PLAN.rstrip("/")):
            return None
        return sum(1 for _ in read_tasks(self.files, PLAN + TASKS_NAME))

    def clear(self) -> None:
        """Remove what an unfinished job has left, and what is left of a dataset that was being removed; no more."""
        names = self.files.names()
        doomed = {name for name in names if _TEMPORARY.fullmatch(name)}
        if MANIFEST_NAME not in names:
            doomed |= self._owned() & set(names)
        self.files.delete_all(sorted(doomed))
        self.files.delete_folder(WORK)  # last: until then it names the files of the job

    def discard(self) -> None:
        """Remove the dataset that is here, and the work of any job, and nothing that is not theirs."""
        manifest = self.manifest()
        if manifest is not None:
            if self.files.local is not None:
                (self.files.local / WORK).mkdir(exist_ok=True)
            self.files.write(_OWNED, [json.dumps(sorted(_files_of(manifest))).encode()])
            self.files.delete(MANIFEST_NAME)
        self.clear()

    def _owned(self) -> set[str]:
        """The names that an unfinished job, or a dataset that was being removed, has in OUTPUT itself."""
        owned: set[str] = set()
        if self.planned() is not None:
            owned.update(_METADATA)
            for task in read_tasks(self.files, PLAN + TASKS_NAME):
                for format in FORMATS:
                    name = shard_name(task.split, task.number, task.count, format)
                    owned |= {name, index_name(name)}
        with contextlib.suppress(FileNotFoundError, ValueError):
            owned.update(json.loads(self.files.read(_OWNED)))
        return owned

    def leave(self) -> bool:
        """Remove the work of a job that is finished, or that has nothing to go on with. Whether nothing is left."""
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


def _files_of(manifest: Manifest) -> set[str]:
    """The name of every file that belongs to a dataset, but for the manifest."""
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    paths = [file.path for shard in shards for file in shard.files.values()]
    metadata = TFDS_NAMES if any(SHARD_FORMATS[name].in_tfds for name in manifest.formats) else ()
    return {*paths, *map(index_name, paths), DUPLICATES_NAME, REJECTS_NAME, *metadata}


@contextlib.contextmanager
def claimed(place: str, *, overwrite: bool = False) -> Iterator[Output]:
    """Hold OUTPUT: make it if need be, keep other jobs off it, and leave nothing in it but what can be gone on with.

    A finished dataset that is not to be overwritten is not held: nothing will be changed.

    Raises:
        UsageError: it is not empty and no job left it so, or another job holds it.
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
            raise UsageError(f"OUTPUT {place}: is not empty, and what is in it is no dataset of ours")
        if finished:
            output.manifest()  # before a lock makes it look like an unfinished dataset
        with locked(place, output.files) as remove_lock:
            try:
                yield output
            except LostJobError:
                raise  # what is there is still in use
            except Exception:
                with contextlib.suppress(Exception):  # what went wrong first is what to tell
                    _leave(output, remove_lock)
                raise
            except BaseException:
                _leave(output, remove_lock)
                raise
            _leave(output, remove_lock)
    finally:
        with contextlib.suppress(OSError):  # not empty: the dataset is there
            for path in created:
                path.rmdir()


def _leave(output: Output, remove_lock: Callable[[], None]) -> None:
    """Clear up, and only then let go: while something is left, the lock file tells the next job that it may go on."""
    try:
        nothing_left = output.leave()
    except KeyboardInterrupt:
        if output.leave():  # the command hears only one: what it cut off is done now
            remove_lock()
        raise
    if nothing_left:
        remove_lock()


def _make(place: str, path: Path) -> list[Path]:
    """Make a local OUTPUT; the directories that were not there."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"OUTPUT {place}: is a file; give a directory")
    created = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"OUTPUT {place}: cannot be made ({error.strerror})") from error
    return created
