"""The identity of a job: its inputs, the options that decide the result, and the versions of codecs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.images.process import codec_versions
from beam_jobs.options import JobOptions, fingerprint
from beam_jobs.plan.order import Inputs
from shard_reader.format.manifest import Fingerprint

__all__ = ["OtherJobError", "check_same", "fingerprint_of", "identity"]

# Options that defaults leave out, and libraries that need not be installed.
_ONLY_IF_GIVEN = ("options.image.", "options.source.", "options.exclude", "fingerprint.codecs.")


_OTHER_INPUTS = "INPUT has other inputs"


class OtherJobError(UsageError):
    """OUTPUT has work of another job, with some `differences`."""

    def __init__(self, output: str, differences: str) -> None:
        more = "; --append adds new inputs" if differences == _OTHER_INPUTS else ""
        super().__init__(
            f"OUTPUT {output}: was made differently: {differences}. Give another OUTPUT, or --overwrite{more}"
        )
        self.differences = differences


def fingerprint_of(options: JobOptions, inputs: Inputs) -> Fingerprint:
    """The fingerprint of the dataset that a job makes."""
    return Fingerprint(
        inputs=inputs.fingerprint,
        options=fingerprint(options.deciding()),
        codecs=codec_versions(),
    )


def identity(found: Fingerprint, options: Mapping[str, Any]) -> dict[str, Any]:
    """A job's fingerprint, with the options, which explain a difference. It survives JSON unchanged."""
    return {"fingerprint": asdict(found), "options": dict(options)}


def check_same(there: Mapping[str, Any], here: Mapping[str, Any], output: str) -> None:
    """Check that the work in OUTPUT is of the same job.

    Raises:
        UsageError: it is of another job; the message shows the differences.
    """
    if there.get("fingerprint") == here["fingerprint"]:
        return
    # Hashes say that jobs differ, and not in what: the options, stored beside them, are compared for the message.
    found, asked = _flat(there), _flat(here)
    asked |= {name: None for name in found if name.startswith(_ONLY_IF_GIVEN) and name not in asked}
    differences = [
        _OTHER_INPUTS
        if name == "fingerprint.inputs"
        else f"{name.partition('.')[2].removeprefix('codecs.')} is {found.get(name)!r} there, {value!r} here"
        for name, value in asked.items()
        if found.get(name) != value and name != "fingerprint.options"
    ]
    raise OtherJobError(output, "; ".join(differences))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with names like `image.fit`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
