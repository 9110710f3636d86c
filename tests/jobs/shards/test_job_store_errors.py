"""What `image-shards prepare` says of a store that does not let it in, and what it never says."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.images import write_image
from support.servers import Store, first_of
from support.store_jobs import finished, run


def without(store: Store, *names: str, **more: str) -> Store:
    """The store for somebody who has not set these variables, or others."""
    kept = {name: value for name, value in store.environment.items() if name not in names}
    return dataclasses.replace(store, environment=kept | more)


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command that failed says of it."""
    assert result.returncode in (1, 2)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("image-shards: error: ")]
    return line.removeprefix("image-shards: error: ")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_image(tmp_path / "small/a/1.png", 1)
    return tmp_path / "small"


@pytest.mark.parametrize("name", first_of("moto", "minio", "gcs", "azurite"))
def test_no_such_bucket(name: str, new_store: Callable[[str], Store], small: Path, tmp_path: Path) -> None:
    store = new_store(name)
    place = f"{store.protocol}://no-such-bucket-of-ours"
    said = one_line(run(f"{place}/in", tmp_path / "out", store))
    assert said == f"INPUT {place}/in: does not exist: there is no bucket no-such-bucket-of-ours"
    said = one_line(run(small, f"{place}/out", store, options="--size 16"))
    assert said.startswith(f"{place}/out/") and ": there is no " in said
    said = one_line(run(f"{store.url}/nothing", tmp_path / "out", store))
    bucket = store.url.split("/")[2]
    assert said == f"INPUT {store.url}/nothing: does not exist: nothing in the bucket {bucket} begins with that"


KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, *KEYS), "no credentials that can be used (Unable to locate credentials)"),
        (
            lambda s: without(s, AWS_PROFILE="nobody"),
            "no credentials that can be used (The config profile (nobody) could",
        ),
        (
            lambda s: without(s, AWS_ACCESS_KEY_ID="wrong"),
            "the store does not accept the credentials (The Access Key Id",
        ),
        (
            lambda s: without(s, AWS_SECRET_ACCESS_KEY="wrong-one"),
            "the store does not accept the credentials (The requ",
        ),
        (lambda s: without(s, *KEYS, FSSPEC_S3_ANON="true"), "no permission (Access Denied); it takes s3:ListBucket"),
    ],
    ids=["none", "profile", "key", "secret", "anonymous"],
)
def test_no_credentials_for_s3(
    change: Callable[[Store], Store], message: str, small: Path, new_store: Callable[[str], Store], tmp_path: Path
) -> None:
    store = new_store("minio")
    store.copy(small, "in")
    changed = change(store)
    for source, output in ((f"{store.url}/in", tmp_path / "out"), (small, f"{store.url}/out")):
        result = run(source, output, changed, options="--size 16")
        said = one_line(result)
        assert message in said and "AWS_ACCESS_KEY_ID" in said and store.url.split("/")[2] in said
        assert "wrong-one" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("actions", "where"),
    [(["ListBucket"], "in"), (["GetObject"], "in"), (["ListBucket", "GetObject"], "out")],
    ids=["read", "list", "write"],
)
def test_no_permission_in_s3(
    actions: list[str], where: str, small: Path, new_store: Callable[[str], Store], tmp_path: Path
) -> None:
    store = new_store("minio")
    store.copy(small, "in")
    bucket = store.url.split("/")[2]
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": ["*"]},
        "Action": [f"s3:{action}" for action in actions],
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    store.fs().call_s3("put_bucket_policy", Bucket=bucket, Policy=policy)
    output = tmp_path / "out" if where == "in" else f"{store.url}/out"
    said = one_line(run(f"{store.url}/in", output, without(store, *KEYS, FSSPEC_S3_ANON="true"), options="--size 16"))
    assert f"{store.url}/{where}" in said and "no permission (" in said and "s3:GetObject" in said
    assert not (tmp_path / "out").exists() and store.contents("out") == {}


@pytest.mark.slow
def test_no_credentials_for_azure(azure: Store, small: Path, tmp_path: Path) -> None:
    source = azure.copy(small, "in")
    nobody = dataclasses.replace(azure, environment={})
    text = azure.environment["AZURE_STORAGE_CONNECTION_STRING"]
    wrong = dataclasses.replace(azure, environment={"AZURE_STORAGE_CONNECTION_STRING": text.replace("Eby8", "Eby9")})
    for store, message in ((nobody, "no credentials that can be used"), (wrong, "does not accept the credentials")):
        said = one_line(run(source, tmp_path / "out", store, options="--size 16"))
        assert source in said and message in said and "AZURE_STORAGE_CONNECTION_STRING" in said


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [("s3://b/in", "s3fs", "s3"), ("gs://b/in", "gcsfs", "gcs"), ("az://b/in", "adlfs", "azure")],
)
def test_a_missing_package(url: str, package: str, extra: str, tmp_path: Path) -> None:
    words = ["prepare", url, str(tmp_path / "out")]
    code = (
        f"import sys; sys.modules[{package!r}] = None; from beam_jobs.cli.main import main; sys.exit(main({words!r}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    message = f"INPUT {url}: needs the package {package}: pip install 'image-shards[{extra}]'"
    assert result.stderr == f"image-shards: error: {message}\n"


# What lets one in


@pytest.mark.parametrize("name", first_of("moto", "minio"))
def test_a_signature_is_neither_shown_nor_stored(
    name: str, new_store: Callable[[str], Store], class_folders: Path, tmp_path: Path
) -> None:
    """Of a table of presigned URLs, one of them of an object that is not there, for ten minutes only."""
    s3 = new_store(name)
    s3.copy(class_folders / "a", "in")
    files = s3.fs()
    names = [*sorted(path.name for path in (class_folders / "a").iterdir()), "gone.jpg"]

    def table() -> None:
        urls = [files.sign(f"{s3.url}/in/{name}", 600) for name in names]
        (tmp_path / "table.csv").write_text("\n".join(["path", *urls]))

    options = "--size 16x12 --encoding raw --shards 1 --max-rejects 1"
    table()
    signed = (tmp_path / "table.csv").read_text().split("\n")[1]
    signatures = [part.partition("=")[2] for part in re.split("[?&]", signed) if re.search("(?i)signature=", part)]
    assert signatures
    said = finished(tmp_path / "table.csv", tmp_path / "out", options=options)
    written = [path.read_bytes() for path in (tmp_path / "out").iterdir()]
    assert b"gone.jpg" in (tmp_path / "out/rejects.jsonl").read_bytes()
    for text in (said.encode(), *written):
        assert re.search(rb"(?i)signature=(?!\*\*\*)", text) is None
        assert not any(signature.encode() in text for signature in signatures)
    time.sleep(1.1)  # the next signatures are others
    table()
    assert "is finished, nothing to do" in finished(tmp_path / "table.csv", tmp_path / "out", options=options)


@pytest.mark.slow
def test_a_password_in_a_url_is_not_shown(web: Store, new_store: Callable[[str], Store], tmp_path: Path) -> None:
    s3 = new_store("moto")
    host = "{}:{}".format(*web.endpoint)
    for url in ("s3://AKIA123:abc/def+S3CRET@bucket/in", f"http://me:S3CRET@{host}/no/t.tar?sig=S3CRET&x=1"):
        for places in ((url, tmp_path / "out"), (tmp_path, f"{url}/out")):
            result = run(*places, s3, options="")
            assert result.returncode in (1, 2)
            assert "S3CRET" not in result.stderr + result.stdout
