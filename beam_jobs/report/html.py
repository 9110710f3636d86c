"""The report's values as HTML: templates that escape everything, and a policy that lets a browser load nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

from beam_jobs.report.charts import HEIGHT, WIDTH, plain
from beam_jobs.terminal import size_text
from shard_reader.printable import printable
from shard_reader.storage.secrets import without_secrets

__all__ = ["rendered"]

_LONGEST: Final = 600  # characters of a text: names, ids and messages are of any length


def rendered(values: Mapping[str, Any]) -> bytes:
    """The HTML file.

    Args:
        values: the names that `templates/report.html` uses.
    """
    # Imported here: the command says which extra has it if it is missing.
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    templates = files("beam_jobs.report") / "templates"
    style, script = ((templates / name).read_text("utf-8") for name in ("style.css", "script.js"))
    environment = Environment(
        loader=PackageLoader("beam_jobs.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain, "bytes": size_text, "uri": Markup}
    text = environment.get_template("report.html").render(
        values,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        chart_size={"width": WIDTH, "height": HEIGHT},
    )
    return text.encode()


def _shown(value: Any) -> Any:
    """What a template writes for a value: no text of a dataset steers the direction of others, or has credentials."""
    # Markup, which is a `str` of its own, comes from the package's files and from base64.
    if type(value) is not str:
        return value
    value = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."
    return printable(without_secrets(value))


def _policy(style: str, script: str) -> str:
    """The Content Security Policy: the pictures, the one style and the one script of the file, and nothing else."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    style_hash, script_hash = (f"'sha256-{hash}'" for hash in hashes)
    return (
        f"default-src 'none'; img-src data:; style-src {style_hash}; script-src {script_hash};"
        " base-uri 'none'; form-action 'none'"
    )
