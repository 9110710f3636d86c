"""Members of a WebDataset sample beside its image: masks, depth maps, further images, and bytes.

```
0.jpg 0.mask.png 0.depth.png    fields `mask` and `depth`, by their names
0.jpg 0.right.jpg 0.wav         fields `right` and `wav`, if --image-columns jpg,right,wav:bytes names them
```
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.annotations.payloads import PayloadColumns, role_of_name
from beam_jobs.sources.files.interface import BadInput, SourceOptions
from beam_jobs.sources.files.members import Member

__all__ = ["IMAGE_COMPONENTS", "FurtherMembers", "check_size"]

IMAGE_COMPONENTS = frozenset(
    {"avif", "bmp", "dds", "dib", "gif", "icns", "ico", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg", "pbm", "pcx", "pgm"}
    | {"png", "pnm", "ppm", "psd", "qoi", "sgi", "tga", "tif", "tiff", "webp", "xbm", "xpm"}
)
"""The suffixes of members that are images."""


class FurtherMembers:
    """Chooses the fields of members by their components: the rest of a name after the key, as "mask.png"."""

    def __init__(self, options: SourceOptions) -> None:
        """The names of the options, or masks and depth maps by their names.

        Raises:
            UsageError: an option is wrong.
        """
        self._columns = PayloadColumns.of(options)
        key = self._columns.image_or("--image-key", options.image_key)
        self.image = (key or "").lower().removeprefix(".")
        """The component of images; "" for any."""
        self._named = {column.lower().removeprefix("."): field for field, column in self._columns.columns.items()}
        # Named fields are all fields: a mask that is not among them has to be asked for, too.
        self._by_name = self._columns.image is None and options.fields is None
        self._seen: dict[str, str] = {}

    def field(self, component: str) -> str | None:
        """The field of a member, None for one that is left out."""
        if component == self.image:
            return None
        stem = _stem(component)
        for name in (component, stem):
            if name in self._named:
                field = self._named[name]
                return _stem(field) if field == name else field
        is_known = self._by_name and stem not in self._named.values()
        return stem if is_known and self.is_target(component) else None

    def is_target(self, component: str) -> bool:
        """Whether the name of a member says that it is a mask or a depth map."""
        return _stem(component) != component and role_of_name(_stem(component)) != "photo"

    def of_sample(self, archive: str, members: Iterable[tuple[str, Member]]) -> dict[str, Any]:
        """The places of the members that are fields, given the members of a sample by their components.

        Raises:
            BadInput: a member cannot be read, or two are of one field.
        """
        found: dict[str, tuple[str, list[Any]]] = {}
        for component, member in members:
            field = self.field(component)
            if field is None:
                continue
            if member.problem is not None:
                raise BadInput(member.problem.reason, f"its .{component} {member.problem.message}")
            if field in found:
                raise BadInput("several-masks", f"has .{found[field][0]} and .{component} for {field}; keep one")
            found[field] = component, [archive, *member.place]
            self._seen[field] = self._role(component, field)
        return {field: place for field, (_, place) in found.items()}

    def _role(self, component: str, field: str) -> str:
        name = next((name for name in (component, _stem(component)) if name in self._named), None)
        return role_of_name(field) if name is None else self._columns.roles[self._named[name]]

    def roles(self, called: str) -> dict[str, str]:
        """The role of each field that some sample has. `called` names INPUT in messages.

        Raises:
            UsageError: no sample has a member that an option names.
        """
        for name, field in self._named.items():
            if field not in self._seen and _stem(field) not in self._seen:
                option = "--mask-column" if name != field else "--image-columns"
                raise UsageError(f"{option} {name}: {called} has no sample with such a member, as 0.{name}")
        return dict(self._seen)

    def remedy(self, image: str, component: str) -> str:
        """The reason why a member is left out, with the option that reads it."""
        is_image = component.rpartition(".")[2] in IMAGE_COMPONENTS
        name = component if is_image else f"{component}:bytes"
        what = "another image of its record; " if is_image else "not images; "
        # The names of the option are all that is read: those that came by their names are among them.
        read = [field if role_of_name(field) == role else f"{field}:{role}" for field, role in self._seen.items()]
        return f"{what}--image-columns {','.join([image, *read, name])} stores it"


def check_size(place: list[int], most: int) -> None:
    """Check the size of a member before it is read.

    Raises:
        BadInput: it has more bytes than `most`.
    """
    size = place[1] if len(place) == 2 else place[3]
    if size > most:
        raise BadInput("too-large", f"has {size:,} bytes, more than --max-bytes {most:,}")


def _stem(component: str) -> str:
    """A component without the suffix of an image: "mask" for "mask.png"."""
    stem, dot, suffix = component.rpartition(".")
    return stem if dot and suffix in IMAGE_COMPONENTS else component
