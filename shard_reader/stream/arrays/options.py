"""How records become batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from shard_reader.arguments import at_least_one, one_of, require
from shard_reader.format.fields import IMAGE
from shard_reader.mixing import Mixings, as_mixings
from shard_reader.transforms.base import Transform
from shard_reader.transforms.compose import ComposedTransform, Transforms

__all__ = ["OnError", "ReadOptions", "Verify", "Workers", "chosen_workers"]

Verify = Literal["always", "first-epoch", "never"]
Workers = Literal["threads", "processes"]
OnError = Literal["raise", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How records become batches; `Records.stream` explains each option.

    Raises:
        ValueError: a value is not one of its choices.
        TypeError: a value is of another type.
    """

    fields: Iterable[str] | None
    image: Transforms
    ragged: Literal["list", "pad"] | int
    fast: bool
    verify: Verify | None
    on_error: OnError
    threads: int | None
    prefetch: int
    # The last ones: pickles of earlier versions have none.
    transform: Mapping[str, Transforms] | None = None
    workers: Workers | None = None
    mixing: Mixings = None
    report: bool = False
    decode: bool = True

    def __post_init__(self) -> None:
        if as_mixings(self.mixing) and not self.decode:
            raise ValueError(f"mixing={self.mixing!r}: needs the size of decoded images: take decode=True")
        one_of("on_error", self.on_error, get_args(OnError))
        if self.verify is not None:
            one_of("verify", self.verify, get_args(Verify))
        if self.workers is not None:
            # DataLoader's users give a number.
            require(
                self.workers in get_args(Workers),
                "workers",
                self.workers,
                "must be threads or processes; threads= is the number of either",
            )
        # A damaged record has weight 0 in an epoch that is verified. Unchecked in the next epoch, its damaged pixels
        # would be trained on.
        if self.on_error == "skip" and self.verify not in (None, "always"):
            raise ValueError(
                f'verify={self.verify!r}: must be "always" with on_error="skip": a damaged record that is not checked'
                " would be skipped in one epoch, and not in the next"
            )
        if isinstance(self.fields, str) or not isinstance(self.fields, Iterable | None):
            raise TypeError(f"fields={self.fields!r}: must be several names, as ({self.fields!r},)")
        if self.fields is not None:
            # An iterator would have no names left for the stream of another rank, which is made from these options.
            object.__setattr__(self, "fields", tuple(self.fields))
        self._check_transform()
        if isinstance(self.ragged, str):
            one_of("ragged", self.ragged, ("list", "pad", "or a length"))
        else:
            at_least_one("ragged", self.ragged)
        at_least_one("prefetch", self.prefetch)
        for name in ("report", "decode"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}={getattr(self, name)!r}: must be True or False")
        if self.threads is not None:
            at_least_one("threads", self.threads)

    def to_plain(self) -> dict[str, Any]:
        """Each option by its name."""
        # One that was pickled before an option was there has no value for it.
        return {option.name: getattr(self, option.name) for option in fields(self) if hasattr(self, option.name)}

    def transforms_of(
        self, sizes: Sequence[tuple[int, int]] | None
    ) -> list[tuple[Transforms, Mapping[str, Transforms] | None]]:
        """`image` and `transform` for each image size of batches; those themselves where all images have one.

        Raises:
            ValueError: there are sizes, and a value is not a function of a size that gives transforms.
        """
        if sizes is None:
            return [(self.image, self.transform)]
        if self.transform is None:
            return [(_of_size("image", self.image, size), None) for size in sizes]
        return [
            (None, {name: _of_size(f"transform[{name!r}]", value, size) for name, value in self.transform.items()})
            for size in sizes
        ]

    def _check_transform(self) -> None:
        if self.transform is None:
            return
        if self.image is not None:
            raise ValueError('image= and transform= exclude each other: give transform={"image": ...}')
        if not isinstance(self.transform, Mapping) or not all(isinstance(name, str) for name in self.transform):
            raise TypeError(
                f"transform={self.transform!r}: must be transforms by the names of image fields, as"
                ' {"image": [...], "mask": [...]}; for transforms of all images, image='
            )


def _of_size(name: str, value: Any, size: tuple[int, int]) -> Transforms:
    """The transforms that a function of a size gives."""
    advice = "pass a function from a size, (height, width), to transforms, as RandomResizedCrop is"
    if value is None or isinstance(value, Transform | Sequence) or not callable(value):
        raise ValueError(f"{name}={value!r}: batches have several image sizes: {advice}")
    try:
        found = value(size)
    except Exception as error:
        raise ValueError(f"{name}={value!r}: failed for the size {size}: {error!r}; {advice}") from error
    if found is None or (isinstance(found, Sequence) and not found):
        raise ValueError(f"{name}={value!r}: gives no transform for the size {size}; {advice}")
    return found  # type: ignore[no-any-return]


def chosen_workers(
    asked: Workers | None, transforms: Mapping[str, ComposedTransform], joined: Sequence[str]
) -> Workers:
    """The workers of a stream: as asked, or else processes where a transform needs them.

    Args:
        transforms: the transforms of each image field.
        joined: the other fields that move with the first image.

    Raises:
        ValueError: threads are asked for, and a transform needs processes.
    """
    for name, transform in transforms.items():
        joins = name == IMAGE and transform.joins and bool(joined)
        if asked == "threads" and (transform.needs_processes or joins):
            why = "draws from the global generators of its process, where threads would take turns in any order"
            if joins:
                why = f"takes {joined[0]!r} together with the image"
            raise ValueError(f'workers="threads": {transform!r} {why}: leave workers= out, or take "processes"')
        if asked is None and (transform.draws_globally or joins):
            return "processes"
    return asked or "threads"
