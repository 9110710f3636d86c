"""The interface of an image codec."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from types import ModuleType
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.fields import Field
from shard_reader.transforms.part import Part

__all__ = ["Bytes", "ImageCodec", "ImageHeader", "Pixels", "RestartMarkers", "Scratch", "optional_module"]


Bytes = NDArray[np.uint8]
Pixels = NDArray[Any]
RestartMarkers = Literal["auto", "row", "none"]


class ImageHeader(NamedTuple):
    """The type of an image: it decodes to `[height, width, channels]` of `dtype`."""

    encoding: str
    height: int
    width: int
    channels: int
    dtype: str


class Scratch:
    """Memory for the pixels of one image at a time, used again for the next image."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def memory(self, size: int) -> NDArray[np.uint8]:
        """The memory, of at least `size` bytes: its previous content is lost."""
        if len(self._memory) < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory


class ImageCodec(ABC):
    """One encoding of stored images. `image_codecs/table.py` lists all of them."""

    name: ClassVar[str]
    """In manifests and on command lines."""
    label: ClassVar[str]
    """In messages."""
    media_type: ClassVar[str]
    """As the Internet Assigned Numbers Authority registers it."""
    suffix: ClassVar[str | None] = None
    """The usual end of a file's name; None: a payload is no file."""
    channels: ClassVar[tuple[int, ...]]
    """The numbers of channels that an image may have: 1 (grey), 3 (RGB), 4 (RGB and opacity), or of bands."""
    dtypes: ClassVar[tuple[str, ...]]
    """The dtypes of its pixels, the usual one first."""
    max_side: ClassVar[int]
    """The longest side of an image, in pixels."""
    quality: ClassVar[int | None] = None
    """The default quality, 1 to 100; None: it has no quality."""
    is_raw: ClassVar[bool] = False
    """Whether the payload is the pixels themselves, so that it has no header."""
    keeps_files: ClassVar[bool] = False
    """Whether a file of this encoding that needs no change is stored as it is."""
    decodes_faster: ClassVar[bool] = False
    """Whether `decode` has a faster, less exact way."""
    has_restart_markers: ClassVar[bool] = False
    """Whether `encode` has a choice of restart markers, at which parts can be cut out."""
    in_tfds: ClassVar[bool] = False
    """Whether TensorFlow Datasets decodes it as an `Image` feature."""
    packages: ClassVar[tuple[str, ...]] = ()
    """The modules that decoding it needs: the extra `decode` installs them."""
    deep_packages: ClassVar[tuple[str, ...]] = ()
    """The further modules that colours of another dtype than the usual one need."""

    def matches(self, start: bytes) -> bool:
        """Whether an image with these first 12 bytes is of this encoding."""
        del start
        return False

    def packages_for(self, field: Field) -> tuple[str, ...]:
        """The modules that decoding the images of a field needs."""
        usual = field.dtype == self.dtypes[0] or (len(field.shape) == 3 and field.shape[2] == 1)
        return self.packages if usual else (*self.packages, *self.deep_packages)

    @abstractmethod
    def header(self, payload: Bytes, field: Field | None = None) -> ImageHeader:
        """The header of a payload. `field` is the type of the image, where that is known.

        Raises:
            ValueError: the payload is damaged, or its pixels are of a kind that is not decoded. The message continues
                "the image".
            ModuleNotFoundError: a package is missing.
        """

    @abstractmethod
    def decode(
        self, payload: Bytes, field: Field, height: int, width: int, fast: bool, scratch: Scratch | None
    ) -> Pixels:
        """The pixels of a payload, `[height, width, channels]`.

        The size in the payload's header is held against height and width before memory is taken for its pixels.

        Args:
            fast: decode faster and less exactly, if the codec can.
            scratch: memory that the pixels may be in; they are then valid until it is used again.

        Raises:
            ValueError: the payload is damaged, or of another size. The message continues "the image".
            ModuleNotFoundError: a package is missing; the message names the extra.
        """

    def decode_part(
        self, payload: Bytes, field: Field, height: int, width: int, fast: bool, scratch: Scratch | None, part: Part
    ) -> Pixels | None:
        """The pixels of a part of an image, or every `part.scale`-th of them, from less work than the whole image.

        Those at scale 1 are exactly those of `decode`. Damage elsewhere in the payload may not be noticed.

        Args:
            height: that of the whole image; this and the others are as in `decode`.

        Returns:
            None where the whole image has to be decoded, and wherever it has a damage to tell.

        Raises:
            ModuleNotFoundError: a package is missing; the message names the extra.
        """
        del payload, field, height, width, fast, scratch, part
        return None

    @abstractmethod
    def encode(self, pixels: Pixels, quality: int | None, restart_markers: RestartMarkers = "auto") -> bytes:
        """The payload of pixels, `[height, width, channels]`, C-contiguous, of one of `dtypes` and `channels`.

        Equal pixels give equal bytes, with the same packages on any machine of the same architecture.

        Args:
            quality: 1 to 100; None for the default.
            restart_markers: in a JPEG, at the end of each row of coding units ("row"), more often ("auto"), or "none".
        """


def optional_module(name: str) -> ModuleType:
    """A package for decoding, imported when the first image needs it. Raw pixels need no package.

    Raises:
        ModuleNotFoundError: the package is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"decoding images needs {error.name}: pip install 'image-shards[decode]'", name=error.name
        ) from error
