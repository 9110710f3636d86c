"""What importing brings in, and what it offers."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from support.command import REPOSITORY

import beam_jobs
import shard_reader

FRAMEWORKS = {"jax", "keras", "tensorflow", "timm", "torch"}
ADAPTERS = {"keras": "keras", "jax": "jax", "tf_data": "tensorflow", "timm": "timm", "torch": "torch"}
PARTS = {
    "torch_workers": "torch",
    "telemetry.keras": "keras",
    "telemetry.lightning": "pytorch_lightning",
    "telemetry.opentelemetry": "opentelemetry",
}
MODULES = [
    module.name
    for package in (shard_reader, beam_jobs)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]

LOADED = """
import sys
sys.path[:0] = {paths!r}
import {module}
standard = set(sys.stdlib_module_names) | set(sys.builtin_module_names)
print(*sorted({{name.split(".")[0] for name in sys.modules}} - standard))
"""


def loaded(module: str, *paths: Path) -> set[str]:
    """The top-level packages that are there after an import, in a Python without site-packages but `paths`."""
    code = LOADED.format(paths=[str(path) for path in (*paths, REPOSITORY)], module=module)
    result = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, check=True)
    return {name for name in result.stdout.split() if not name.startswith("_")}


def test_the_reader_needs_numpy_and_nothing_else(tmp_path: Path) -> None:
    """With NumPy alone installed: a missing package would fail, an installed one would show."""
    site = Path(numpy.__file__).parent.parent
    for name in ("numpy", "numpy.libs"):
        if (site / name).exists():
            (tmp_path / name).symlink_to(site / name)
    assert loaded("shard_reader", tmp_path) == {"numpy", "shard_reader"}


def test_the_reader_loads_numpy_and_nothing_else() -> None:
    """With everything installed."""
    site = Path(numpy.__file__).parent.parent
    assert loaded("shard_reader", site) == {"numpy", "shard_reader"}


def test_the_worker_processes_load_neither_beam_nor_tensorflow() -> None:
    found = loaded("beam_jobs.shards.write", Path(numpy.__file__).parent.parent)
    assert "shard_reader" in found
    assert not found & {"apache_beam", "tensorflow", "keras", "tqdm"}


def test_a_served_model_loads_decoders_and_nothing_of_a_job() -> None:
    found = loaded("beam_jobs.serving", Path(numpy.__file__).parent.parent)
    assert found == {"PIL", "beam_jobs", "cykooz_resizer", "numpy", "shard_reader", "simplejpeg", "cython_runtime"}


def test_the_reader_never_imports_the_jobs() -> None:
    for path in (REPOSITORY / "shard_reader").rglob("*.py"):
        assert "beam_jobs" not in path.read_text("utf-8"), path


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "framework"), ADAPTERS.items())
def test_an_adapter_loads_one_framework(adapter: str, framework: str) -> None:
    """That is, what importing the framework loads: Keras its backend, TensorFlow even JAX, if it is there."""
    pytest.importorskip(framework)
    site = Path(numpy.__file__).parent.parent
    found = loaded(f"shard_reader.{adapter}", site) & FRAMEWORKS
    assert framework in found and found == loaded(framework, site) & FRAMEWORKS


@pytest.mark.parametrize("name", MODULES)
def test_every_name_that_is_offered_exists(name: str) -> None:
    _, _, last = name.partition("shard_reader.")
    if last in ADAPTERS | PARTS:
        pytest.importorskip((ADAPTERS | PARTS)[last])
    module = importlib.import_module(name)
    for offered in module.__all__:
        assert hasattr(module, offered), f"{name}.{offered}"


def test_the_public_names() -> None:
    assert shard_reader.__all__ == [
        "Bucketed",
        "CenterCrop",
        "Concatenation",
        "CorruptionError",
        "Coverage",
        "CutMix",
        "Dataset",
        "DatasetError",
        "Draws",
        "Flip",
        "ManifestError",
        "MixUp",
        "Mixture",
        "RandomResizedCrop",
        "Resize",
        "Sampled",
        "ShardsError",
        "Skipped",
        "StateError",
        "Stats",
        "StoreError",
        "Stream",
        "Transform",
        "concat",
        "mix",
        "open_dataset",
    ]


KERAS = "import os; os.environ['KERAS_BACKEND'] = '{}'; import shard_reader.keras"
WITHOUT = "import sys; sys.modules[{missing!r}] = None; {code}"


@pytest.mark.parametrize(
    ("missing", "code", "message"),
    [
        ("tensorflow", "import shard_reader.tf_data", "pip install 'image-shards[tf]'"),
        ("keras", "import shard_reader.keras", "pip install 'image-shards[keras]'"),
        ("torch", "import shard_reader.torch", "pip install 'image-shards[torch]'"),
        ("jax", "import shard_reader.jax", "pip install 'image-shards[jax]'"),
        ("keras", "import shard_reader.telemetry.keras", "pip install 'image-shards[keras]'"),
        ("pytorch_lightning", "import shard_reader.telemetry.lightning", "pip install lightning"),
        ("opentelemetry", "import shard_reader.telemetry.opentelemetry", "pip install 'image-shards[telemetry]'"),
        ("tensorflow", KERAS.format("tensorflow"), "a backend for Keras, which finds no tensorflow: pip install"),
        ("jax", KERAS.format("jax"), "a backend for Keras, which finds no jax: pip install"),
        ("PIL", "import shard_reader as s; s.open_dataset({golden!r})[0]", "pip install 'image-shards[decode]'"),
    ],
)  # fmt: skip
def test_a_missing_package_says_what_to_install(missing: str, code: str, message: str) -> None:
    code = code.format(golden=str(REPOSITORY / "tests/reader/format/golden/v1/encoded"))
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing, code=code)], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("line", ["benchmark {golden} --seconds 1 --crop 1", "verify {golden} --decode"])
def test_a_command_without_decoders_says_what_to_install_in_one_line(line: str) -> None:
    words = line.format(golden=REPOSITORY / "tests/reader/format/golden/v1/encoded").split()
    call = f"from beam_jobs.cli.main import main; sys.exit(main({words!r}))"
    code = WITHOUT.format(missing="PIL", code=call)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    (said,) = result.stderr.splitlines()
    assert said.startswith("image-shards: error: ") and said.endswith("pip install 'image-shards[decode]'")


def test_the_command_without_beam_says_what_to_install() -> None:
    call = "from beam_jobs.cli.main import main; sys.exit(main(['prepare']))"
    code = WITHOUT.format(missing="cykooz_resizer", code=call)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "image-shards: error: needs cykooz_resizer: pip install 'image-shards[beam]'\n"


def test_dir_shows_the_public_names_and_modules() -> None:
    public = {*shard_reader.__all__, *ADAPTERS, "format", "mixing", "telemetry", "transforms", "__version__"}
    assert set(dir(shard_reader)) == public
    code = "import sys, shard_reader; dir(shard_reader); print(shard_reader.transforms.Flip, 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["<class", "'shard_reader.transforms.standard.Flip'>", "False"]


@pytest.mark.parametrize(("adapter", "framework"), ADAPTERS.items())
def test_a_module_is_there_when_it_is_asked_for(adapter: str, framework: str) -> None:
    pytest.importorskip(framework)
    assert getattr(shard_reader, adapter) is importlib.import_module(f"shard_reader.{adapter}")


def test_a_module_whose_package_is_missing_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; import shard_reader; print(hasattr(shard_reader, 'torch'), {})"
    call = [sys.executable, "-c", code.format("shard_reader.torch")]
    result = subprocess.run(call, capture_output=True, text=True)
    assert result.stderr.splitlines()[-1] == (
        "AttributeError: shard_reader.torch needs PyTorch: pip install 'image-shards[torch]'"
    )
    with pytest.raises(AttributeError, match="module 'shard_reader' has no attribute 'tensorflow'"):
        shard_reader.tensorflow  # noqa: B018


def test_there_is_one_version() -> None:
    assert beam_jobs.__version__ == shard_reader.__version__
    with pytest.raises(AttributeError, match="module 'beam_jobs' has no attribute 'version'"):
        beam_jobs.version  # noqa: B018
