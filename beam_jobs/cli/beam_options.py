"""Options of Apache Beam on a command line, which are passed on to it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.runners.beam_import import without_import_warnings

__all__ = ["add_beam_arguments", "beam_values"]


def add_beam_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> set[str]:
    """Add Beam's options to `parser`, if a word is not an option of its own. Returns their names."""
    # Beam's own parser drops unknown options with a warning, and accepts prefixes of options. In one parser for both, a
    # mistyped option is an error. Beam is imported only if there is an option of it: that takes a second.
    own = parser._option_string_actions
    if not any(word.startswith("--") and word.split("=")[0] not in own for word in arguments):
        return set()
    own_names = {action.dest for action in parser._actions}
    group = parser.add_argument_group("Apache Beam")
    with without_import_warnings():
        from apache_beam.options.pipeline_options import PipelineOptions

        # Each view of Beam's options adds its own. There is no public way to list them.
        for view in PipelineOptions.__subclasses__():
            view._add_argparse_args(group)
    for action in group._group_actions:
        action.help = argparse.SUPPRESS
    return {action.dest for action in group._group_actions} - own_names


def beam_values(parser: argparse.ArgumentParser, found: argparse.Namespace, names: set[str]) -> dict[str, Any]:
    """Beam's options that a command line gives.

    Args:
        parser: the parser, with Beam's options.
        found: all that was parsed.
        names: the names of Beam's options.

    Raises:
        UsageError: Beam has no such runner, or the option is one of this project's processes.
    """
    given = {n: v for n, v in vars(found).items() if n in names and v != parser.get_default(n)}
    if "runner" in given:
        given["runner"] = _runner(given["runner"])
    # These would set the number of Beam's own processes, which do no work here.
    for name in ("direct_num_workers", "direct_running_mode"):
        if name in given:
            raise UsageError(f"--{name}: give --workers, which says the same of this project's processes")
    return given


def _runner(text: str) -> str:
    """The name of a runner, from any of Beam's spellings: a path to the class, or without "Runner"."""
    with without_import_warnings():
        from apache_beam.options.pipeline_options import StandardOptions
    known = {runner.rpartition(".")[2] for runner in StandardOptions.ALL_KNOWN_RUNNERS} | {"DirectRunner"}
    spellings = {spelling: name for name in known for spelling in (name.lower(), name.lower().removesuffix("runner"))}
    name = spellings.get(text.rpartition(".")[2].lower())
    if name is None:
        raise UsageError(f"--runner {text}: Apache Beam knows {', '.join(sorted(known))}")
    return name
