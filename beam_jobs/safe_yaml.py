"""YAML of users and strangers, as plain values: no tag makes an object, and no alias grows."""

from __future__ import annotations

from typing import Any, Final

from beam_jobs.errors import UsageError
from shard_reader.printable import printable

__all__ = ["load_yaml"]

_DEEPEST: Final = 20  # levels of lists and keys


def load_yaml(text: str, called: str, *, as_texts: bool = False) -> Any:
    """The value of a document.

    Args:
        text: the document.
        called: its name in messages.
        as_texts: whether all scalars are texts. Otherwise `no` is False, and `1e3` a number.

    Raises:
        UsageError: it is not YAML, has an alias, or nests too deeply.
    """
    import yaml

    loader = yaml.BaseLoader if as_texts else yaml.SafeLoader
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            # A few lines of aliases can stand for terabytes. The parser takes a time that grows with the square of the
            # depth.
            if isinstance(event, yaml.AliasEvent):
                raise UsageError(f"{called}: has an alias (*name); write the value again")
            if depth > _DEEPEST:
                raise UsageError(f"{called}: nests lists and keys more than {_DEEPEST} levels deep")
        return yaml.load(text, Loader=loader)  # of these two, none makes objects
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(f"{called}: is not YAML ({printable(' '.join(str(error).split())[:200])})") from error
