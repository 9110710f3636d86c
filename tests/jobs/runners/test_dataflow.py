"""The job on Dataflow, up to its doors: what is submitted, what is said, and what a worker would run."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import sys
import tarfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from support.buckets import use_buckets
from support.command import REPOSITORY

from beam_jobs.cli.prepare import parse
from beam_jobs.errors import Interrupted, JobError, LostJobError, UsageError
from beam_jobs.steps.prepare import prepare
from shard_reader.storage.directory import Stored
from shard_reader.storage.open import directory

pytest.importorskip("google.cloud.dataflow", reason="needs image-shards[dataflow]")
from support.dataflow_service import JOB_ID, Service, connect, execute, serving, unpacked

IMAGE = "europe-west4-docker.pkg.dev/my-project/images/image-shards:0.2.0"
OPTIONS = [
    "--runner=DataflowRunner",
    "--project=my-project",
    "--region=europe-west4",
    "--temp_location=gs://my-bucket/tmp",
    "--worker_machine_type=n2-standard-8",
    "--max_num_workers=50",
    "--labels=team=vision",
    "--labels=cost=research",
]
WITH_IMAGE = [f"--sdk_container_image={IMAGE}"]
WITH_SOURCE = ["--setup_file=setup.py", "--requirements_file=requirements.lock", "--requirements_cache=skip"]
CONSOLE = f"https://console.cloud.google.com/dataflow/jobs/europe-west4/{JOB_ID}?project=my-project"
MEGABYTE = 10**6


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A Dataflow that runs what it is given while the job is looked at for the first time."""

    def work(service: Service) -> None:
        if service.looks == 0:
            try:
                execute(service.pipeline)
            except Exception as error:
                service.fail("".join(traceback.format_exception(error)))

    found = Service(on_look=work)
    connect(found, monkeypatch)
    with serving(found):
        yield found


def submit(source: object, output: object, *words: str) -> str:
    """`image-shards prepare` in this process, so that it meets `service`; what it prints."""
    arguments = ["prepare", str(source), str(output), "--size=16", "--shards=2", *OPTIONS, *words]
    return prepare(parse([*arguments, "--no_auth"])).text


@pytest.fixture
def buckets(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`gs://in` holds the class folders, `gs://out` nothing."""
    use_buckets(monkeypatch)
    monkeypatch.setattr("beam_jobs.steps.planner._IN_PROCESS", ("gs:",))
    monkeypatch.setattr("beam_jobs.shards.lock.BEAT_SECONDS", 0.1)
    fsspec.filesystem("gs").put(f"{class_folders}/", "gs://in/", recursive=True)
    return class_folders


def test_buckets_need_no_gcsfs(buckets: Path) -> None:
    files, root = fsspec.url_to_fs("gs://in")
    found = {path.removeprefix(f"{root}/") for path in files.find(root)}
    assert found == {str(path.relative_to(buckets)) for path in buckets.rglob("*.*")}
    with fsspec.open("gs://out/a/b.txt", "wb") as file:
        file.write(b"b")
    assert files.cat_file("gs://out/a/b.txt") == b"b"
    assert files.unstrip_protocol(files.ls("gs://out/a", detail=False)[0]) == "gs://out/a/b.txt"
    assert not fsspec.filesystem("memory").exists("/out")
    assert not type(files).__module__.startswith("gcsfs")


def test_the_job_is_as_its_user_asked(service: Service, buckets: Path, tmp_path: Path) -> None:
    submit("gs://in", "gs://out", *WITH_IMAGE, "--job_name=photos-256")
    environment = service.job["environment"]
    (pool,) = environment["workerPools"]
    (container,) = pool["sdkHarnessContainerImages"]
    (path,) = (path for method, path, _ in service.requests if method == "POST")
    assert path.startswith("/v1b3/projects/my-project/locations/europe-west4/jobs?")
    assert service.job["name"] == "photos-256"
    assert service.job["labels"] == {"team": "vision", "cost": "research"}
    assert environment["version"]["job_type"] == "FNAPI_BATCH"
    assert pool["machineType"] == "n2-standard-8"
    assert pool["workerHarnessContainerImage"] == container["containerImage"] == IMAGE
    assert pool["autoscalingSettings"] == {"maxNumWorkers": 50}  # and Dataflow's own algorithm
    assert pool["kind"] == "harness"
    assert container["useSingleCorePerContainer"] is True  # a process for each CPU of a worker
    assert "numThreadsPerWorker" not in pool
    assert all(place.startswith("gs://my-bucket/tmp/photos-256.") for place in service.places)


def test_the_steps_have_the_names_of_the_pipeline(service: Service, buckets: Path, tmp_path: Path) -> None:
    submit("gs://in", "gs://out", *WITH_IMAGE)
    names = {transform.unique_name for transform in service.pipeline.components.transforms.values()}
    steps = {name for name in names if "/" not in name and not name.startswith("ref_")}
    assert steps == {"ListShards", "WriteShards", "Count", "Publish"}


def test_nothing_is_staged_but_the_pipeline(service: Service, buckets: Path, tmp_path: Path) -> None:
    """No main module, and no list of what is installed here, with paths of this machine."""
    submit("gs://in", "gs://out", *WITH_IMAGE)
    assert set(service.staged) == {"pipeline.pb"}
    assert "packages" not in service.job["environment"]["workerPools"][0]


def test_the_job_is_far_below_the_limit_of_20_mb(service: Service, buckets: Path, tmp_path: Path) -> None:
    submit("gs://in", "gs://out", *WITH_IMAGE, "--shards=60")
    assert len(json.dumps(service.job)) < MEGABYTE
    assert len(service.staged["pipeline.pb"]) < MEGABYTE


def test_the_job_is_as_large_for_any_number_of_shards(service: Service, buckets: Path, tmp_path: Path) -> None:
    submit("gs://in", "gs://few", *WITH_IMAGE)
    few = len(service.staged["pipeline.pb"])
    submit("gs://in", "gs://many", *WITH_IMAGE, "--shards=60")
    assert abs(len(service.staged["pipeline.pb"]) - few) < 100


@pytest.mark.nightly
def test_a_million_inputs_make_no_larger_a_job(
    service: Service, buckets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed, planned and submitted; nobody runs it."""
    names = (Stored(f"{'abc'[number % 3]}/{number:07d}.jpg", 100_000) for number in range(1_000_000))
    monkeypatch.setattr("shard_reader.storage.object_store.ObjectDirectory.walk", lambda self: names)
    looks: list[bytes] = []
    service.on_look = lambda service: looks.append(directory("gs://out").read("_work/plan/shards.jsonl"))
    with pytest.raises(JobError, match="the pipeline ended without a manifest"):
        submit("gs://in", "gs://out", *WITH_IMAGE, "--shards=5000")
    plan = looks[0].splitlines()
    assert len(plan) == 5000
    assert sum(json.loads(line)[3] for line in plan) == 1_000_000
    assert len(json.dumps(service.job)) < MEGABYTE
    assert len(service.staged["pipeline.pb"]) < MEGABYTE


def test_the_job_tells_nothing_of_this_machine(
    service: Service, buckets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import apache_beam

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-others")
    submit("gs://in", "gs://out", *WITH_IMAGE)
    # Beam pickles functions of its own with the file that they came from.
    beam = str(Path(apache_beam.__file__).parent).encode()
    text = unpacked(service.staged["pipeline.pb"]).replace(beam, b"") + json.dumps(service.job).encode()
    assert b"beam_jobs" in text  # it was unpacked
    for own in (REPOSITORY, tmp_path, sys.prefix, "not-for-others"):
        assert str(own).encode() not in text


def test_workers_can_run_what_was_staged(service: Service, buckets: Path, tmp_path: Path) -> None:
    summary = submit("gs://in", "gs://out", *WITH_IMAGE)
    assert summary.startswith("gs://out: 60 images in ")


def test_the_user_is_told_where_to_look(
    service: Service, buckets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    submit("gs://in", "gs://out", *WITH_IMAGE)
    lines = capfd.readouterr().err.splitlines()
    assert lines == [
        "gs://in: 3 class folders, 60 images, 0 files ignored (source: folder, the default)",
        f"submitted Dataflow job {JOB_ID}, {CONSOLE}",
    ]


def test_a_job_that_fails_there_fails_here_with_its_reason(
    service: Service, buckets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    service.on_look = lambda service: service.fail(
        "Traceback (most recent call last):\n"
        '  File "apache_beam/runners/common.py", line 1, in process\n'
        "beam_jobs.errors.JobError: gs://in/a.jpg: cannot be read (timed out) [while running 'WriteShards/ParDo']\n"
    )
    with pytest.raises(JobError) as error:
        submit("gs://in", "gs://out", *WITH_IMAGE)
    said = f"Dataflow job {JOB_ID}, {CONSOLE} failed: gs://in/a.jpg: cannot be read (timed out)"
    assert str(error.value) == said
    assert "Traceback" not in capfd.readouterr().err
    assert list(directory("gs://out").walk()) == []


def test_a_submission_that_is_refused_is_one_line(
    service: Service, buckets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    service.refused = ("POST",)
    with pytest.raises(JobError, match=r"\ADataflowRunner failed: 403 POST .*: you may not\Z"):
        submit("gs://in", "gs://out", *WITH_IMAGE)
    assert len(capfd.readouterr().err.splitlines()) == 1  # what was found in INPUT


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # Beam's thread that looks
def test_a_job_out_of_sight_is_not_taken_for_one_that_ended(service: Service, buckets: Path, tmp_path: Path) -> None:
    service.refused = ("GET",)
    said = re.escape(f"Dataflow job {JOB_ID}, {CONSOLE}: lost sight of it (") + ".*it may still be running"
    with pytest.raises(LostJobError, match=said):
        submit("gs://in", "gs://out", *WITH_IMAGE)


def interrupt(service: Service) -> None:
    """Ctrl-C at the first look at the job."""
    if service.looks == 1 and all(method != "PUT" for method, _, _ in service.requests):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_ctrl_c_cancels_the_job_there_and_waits_until_it_is(
    service: Service, buckets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_jobs.runners.engines._POLL_SECONDS", 0.01)
    service.on_look = interrupt
    service.states = (*["JOB_STATE_RUNNING"] * 1_000_000, "JOB_STATE_DONE")
    with pytest.raises(Interrupted, match="interrupted; OUTPUT is as it was"):
        submit("gs://in", "gs://out", *WITH_IMAGE)
    (cancelled,) = (number for number, (method, _, _) in enumerate(service.requests) if method == "PUT")
    _, path, body = service.requests[cancelled]
    assert f"/jobs/{JOB_ID}?" in path
    assert body["requestedState"] == 5  # JOB_STATE_CANCELLED
    assert any(method == "GET" for method, _, _ in service.requests[cancelled + 1 :])
    assert list(directory("gs://out").walk()) == []


def test_ctrl_c_that_cannot_cancel_says_so(
    service: Service, buckets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.on_look = interrupt
    service.refused = ("PUT",)
    service.states = ("JOB_STATE_RUNNING",)
    monkeypatch.setattr("beam_jobs.runners.engines._POLL_SECONDS", 0.01)
    with pytest.raises(LostJobError, match="it may still be running"):
        submit("gs://in", "gs://out", *WITH_IMAGE)


def test_without_an_image_the_source_is_staged(
    service: Service, buckets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"  # a copy: packing leaves files behind
    checkout.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "requirements.lock"):
        shutil.copy(REPOSITORY / name, checkout)
    for name in ("beam_jobs", "shard_reader"):
        shutil.copytree(REPOSITORY / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(checkout)
    submit("gs://in", "gs://out", *WITH_SOURCE)
    assert set(service.staged) == {"pipeline.pb", "requirements.txt", "workflow.tar.gz"}
    assert service.staged["requirements.txt"] == Path("requirements.lock").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(service.staged["workflow.tar.gz"])) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names > {str(path) for package in ("beam_jobs", "shard_reader") for path in Path(package).rglob("*.py")}
    (pool,) = service.job["environment"]["workerPools"]
    assert re.fullmatch(r".*/beam_python3\.\d+_sdk:[\d.]+", pool["workerHarnessContainerImage"])


def test_a_job_gets_a_name_that_does_not_tell_the_user(service: Service, buckets: Path, tmp_path: Path) -> None:
    submit("gs://in", "gs://out", *WITH_IMAGE)
    assert re.fullmatch(r"image-shards-\d{8}-\d{6}", service.job["name"])


def test_what_a_worker_refuses_is_said_here(service: Service, buckets: Path, tmp_path: Path) -> None:
    directory("gs://in").write("a/damaged.jpg", [b"\xff\xd8 no image"])
    with pytest.raises(JobError) as error:
        submit("gs://in", "gs://out", *WITH_IMAGE)
    said = str(error.value)
    assert said.startswith(f"Dataflow job {JOB_ID}, {CONSOLE} failed: of 61 images, at least 1 cannot be used")
    *_, advice, kept = said.splitlines()
    assert advice.endswith("--max-rejects 1.0, rejects.jsonl will list them all.")
    assert kept == "2 of 2 shards finished and kept: the same command goes on from there"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--project="], "--runner=DataflowRunner: needs --project"),
        (["--region=", "--temp_location="], "--runner=DataflowRunner: needs --region, --temp_location"),
        (
            ["--sdk_container_image="],
            "--runner=DataflowRunner: its workers have nothing of this project; give --sdk_con",
        ),
        (["--no_wait_until_finish"], "--no_wait_until_finish: this command waits for the job"),
        (["--template_location=gs://my-bucket/template"], "--template_location: this command waits for the job"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_dataflow_lacks_is_said_at_once(
    words: list[str], message: str, service: Service, buckets: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        submit("gs://in", "gs://out", *WITH_IMAGE, *words)
    assert service.requests == []
    assert list(directory("gs://out").walk()) == []


def test_missing_credentials_are_said_at_once(
    service: Service, buckets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from google.auth.exceptions import DefaultCredentialsError

    def default() -> None:
        raise DefaultCredentialsError("none")

    monkeypatch.setattr("google.auth.default", default)
    with pytest.raises(UsageError, match="gcloud auth application-default login"):
        prepare(parse(["prepare", "gs://in", "gs://out", *OPTIONS, *WITH_IMAGE]))


def test_the_launcher_logs_the_shards_that_workers_have_finished(
    service: Service, buckets: Path, tmp_path: Path
) -> None:
    summary = submit("gs://in", "gs://out", *WITH_IMAGE, f"--log-json={tmp_path}/log")
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(line["shard"] for line in lines) == ["train-00000-of-00002", "train-00001-of-00002"]
    assert [(line["records"], line["kept"]) for line in lines] == [(30, False)] * 2
    assert re.search(r"^  time       [\d.]+ CPU seconds: ", summary, re.MULTILINE)
    assert str(tmp_path).encode() not in unpacked(service.staged["pipeline.pb"])
