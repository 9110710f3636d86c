"""The house: packages lie on layers, imports go down, and no file needs another one that needs it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from support.command import REPOSITORY

from shard_reader.format.image_codecs.table import IMAGE_CODECS
from shard_reader.format.shard_formats.table import SHARD_FORMATS

# From the bottom up. A module belongs to the longest name that it begins with, and imports its own layer or lower ones.
LAYERS = {
    "shard_reader": [
        "shard_reader.errors",
        "shard_reader.printable",
        "shard_reader.arguments",
        "shard_reader.transforms",
        "shard_reader.mixing",
        "shard_reader.system",
        "shard_reader.order",
        "shard_reader.format",
        "shard_reader.storage",
        "shard_reader.remote",
        "shard_reader.shards",
        "shard_reader.stream.arrays",
        "shard_reader.stream",
        "shard_reader.dataset",
        "shard_reader",
        "shard_reader.telemetry",
        "shard_reader.adapters",
        "shard_reader.keras",
        "shard_reader.tf_data",
        "shard_reader.timm",
        "shard_reader.torch",
        "shard_reader.jax",
    ],
    "beam_jobs": [
        "beam_jobs.errors",
        "beam_jobs.meter",
        "beam_jobs.images.changes",
        "beam_jobs.terminal",
        "beam_jobs.external_sort",
        "beam_jobs.parallel",
        "beam_jobs.safe_yaml",
        "beam_jobs.signals",
        "beam_jobs.processes",
        "beam_jobs.sources.files",
        "beam_jobs.prepare_options",
        "beam_jobs.web",
        "beam_jobs.sources",
        "beam_jobs.metadata",
        "beam_jobs.tools.foreign",
        "beam_jobs.tools",
        "beam_jobs.report.reading",
        "beam_jobs.report",
        "beam_jobs.options",
        "beam_jobs.images.files",
        "beam_jobs.images.pixels",
        "beam_jobs.images",
        "beam_jobs.serving",
        "beam_jobs.plan",
        "beam_jobs.shards",
        "beam_jobs.runners",
        "beam_jobs.steps",
        "beam_jobs.generations",
        "beam_jobs.cli",
        "beam_jobs",
        "beam_jobs.__main__",
    ],
}
ROOMS = 9  # of a package, at most; the two top packages have more, since all that a package below needs lies there
NOT_FOR_TOOLS = ("beam_jobs.options", "beam_jobs.shards", "beam_jobs.plan", "beam_jobs.runners", "apache_beam", "tqdm")


def modules(package: str) -> dict[str, Path]:
    """Every module of a package, by its name."""
    return {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((REPOSITORY / package).rglob("*.py"))
    }


MODULES = modules("shard_reader") | modules("beam_jobs")


def imports(path: Path) -> Iterator[str]:
    """The modules of this project that a file names in an import, wherever in the file that is."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                room = f"{node.module}.{alias.name}"
                yield room if room in MODULES else node.module


IMPORTS = {name: set(imports(path)) for name, path in MODULES.items()}


def layer(module: str) -> str:
    """The longest name in LAYERS that a module begins with."""
    names = [name for name in LAYERS[module.partition(".")[0]] if f"{module}.".startswith(f"{name}.")]
    return max(names, key=len)


def closure(module: str) -> set[str]:
    """A module, and all that it imports, over any number of steps."""
    found, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += IMPORTS[name]
    return found


def test_no_file_needs_one_that_needs_it() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    top = module.partition(".")[0]
    rank = {name: number for number, name in enumerate(LAYERS[top])}
    for other in IMPORTS[module]:
        if other.partition(".")[0] != top:
            assert top == "beam_jobs", f"{module} imports {other}: the reader needs no job"
        else:
            assert rank[layer(other)] <= rank[layer(module)], f"{module} imports {other}, which lies above it"


@pytest.mark.parametrize(
    "package", [name for name, path in MODULES.items() if path.name == "__init__.py" and "." in name]
)
def test_a_package_has_few_rooms(package: str) -> None:
    rooms = [name for name in MODULES if name.rpartition(".")[0] == package]
    assert len(rooms) <= ROOMS, f"{package} has {len(rooms)} rooms: put some that belong together into a package below"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("beam_jobs.tools")])
def test_a_tool_has_nothing_of_a_job(module: str) -> None:
    """Neither Beam, nor a writer, nor the options of `prepare`: what it imports, and what is loaded with it."""
    assert not [name for name in closure(module) if name.startswith(NOT_FOR_TOOLS)]
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in loaded if name.startswith(NOT_FOR_TOOLS)]


def test_an_arrow_that_goes_up_would_be_seen() -> None:
    assert layer("shard_reader.stream.stream") == "shard_reader.stream"
    assert layer("beam_jobs.sources.folder") == "beam_jobs.sources"
    assert "shard_reader.errors" in IMPORTS["shard_reader.format.manifest"]
    assert "shard_reader.format.manifest" in closure("beam_jobs.tools.inspect")


TABLES = [*IMAGE_CODECS, *SHARD_FORMATS]


def literals(node: ast.AST) -> Iterator[object]:
    """The literals that an expression is, or is a collection of."""
    if isinstance(node, ast.Constant):
        yield node.value
    for part in [*getattr(node, "elts", []), *getattr(node, "args", [])]:
        yield from literals(part)


def compared(path: Path) -> Iterator[tuple[int, object]]:
    """The line and the value of each literal that a file compares something with, itself or by a constant's name."""
    tree = ast.parse(path.read_text("utf-8"))
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                side = constants.get(side.id, side) if isinstance(side, ast.Name) else side
                yield from ((node.lineno, value) for value in literals(side))


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("shard_reader.format")])
def test_nothing_branches_on_the_name_of_an_image_a_codec_or_a_format(module: str) -> None:
    """A field says whether it is an image; the tables say all that differs between codecs, and between formats."""
    names = ["image"] if module.startswith("beam_jobs.sources") else ["image", *TABLES]  # sources have files of others
    assert not [(line, value) for line, value in compared(MODULES[module]) if value in names]


def test_a_comparison_with_a_name_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "A = frozenset({'id'})\nif name == 'image' or kind in ('raw', other) or x in A: ...\n"
    )
    assert [value for _, value in compared(tmp_path / "a.py")] == ["image", "raw", "id"]
