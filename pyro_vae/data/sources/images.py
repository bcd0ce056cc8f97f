"""How images become arrays of one shape: their size, their colours, and the decoding of a file by Pillow."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.arguments.remedies import option, spoken
from pyro_vae.data.streams.elements import array_of
from pyro_vae.errors import DataError, FileError, PyroVaeError, UsageError

_GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I", "F")
"""Modes of Pillow without colour."""

_DEEP = ("I;16", "I;16B", "I;16L", "I", "F")
"""Those with more than 256 levels."""

_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
"""The tag of EXIF that says how an image is turned, and its values for a quarter turn."""

_SHOWN = 3


@dataclass(frozen=True)
class ImageOptions:
    """How images become arrays of one shape.

    Args:
        size: height and width: an image is scaled until it covers them, its sides in proportion, and what lies outside
            is cut off on both sides equally. None to keep the size, which must then be the same for all.
        channels: 1 or 3, to which others are converted; None to keep them, which must then be the same for all.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None

    @classmethod
    def of(cls, size: Any, channels: Any) -> "ImageOptions":
        """The arguments `image_size` and `channels`, checked.

        Raises:
            UsageError: for anything but one or two whole numbers from 1, and 1 or 3.
        """
        sizes = [size, size] if isinstance(size, int | np.integer) else size
        is_list = isinstance(sizes, list | tuple) and len(sizes) == 2
        if sizes is not None and not (is_list and all(_is_whole(n) and n > 0 for n in sizes)):
            example = spoken("image_size=64, or (height, width)", "--image_size 64, or [HEIGHT,WIDTH]")
            raise UsageError(f"{spoken('', '--')}image_size: expected e.g. {example}, got {size!r}")
        if channels is not None and not (_is_whole(channels) and channels in (1, 3)):
            raise UsageError(f"{spoken('', '--')}channels: expected 1 (grey) or 3 (colour), got {channels!r}")
        kept = None if sizes is None else (int(sizes[0]), int(sizes[1]))
        return cls(kept, None if channels is None else int(channels))

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, as plain data."""
        size = {} if self.size is None else {"image_size": list(self.size)}
        return size | ({} if self.channels is None else {"channels": self.channels})


AS_THEY_ARE = ImageOptions()


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


@dataclass(frozen=True)
class Header:
    """What the header of a file says of its image.

    Args:
        file: its path.
        size: height and width, upright.
        grey: whether it has no colour.
    """

    file: Path
    size: tuple[int, int]
    grey: bool


def read_header(file: Path) -> Header:
    """The header of an image; nothing is decoded.

    Raises:
        DataError: if Pillow finds no image in it, or one of so many pixels that Pillow takes it for an attack.
    """
    with opened(file) as image:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION) in _TURNED
        return Header(file, (width, height) if turned else (height, width), image.mode in _GREY)


def check_alike(headers: Sequence[Header], options: ImageOptions) -> None:
    """Refuse images of different sizes, or some grey and some not, unless the options say what becomes of them.

    Raises:
        DataError: with an example of each kind.
    """
    if options.size is None and len(sizes := {header.size: header.file for header in reversed(headers)}) > 1:
        counts = Counter(header.size for header in headers).most_common()
        shown = ", ".join(f"{h}x{w} ({n}: {sizes[h, w].name})" for (h, w), n in counts[:_SHOWN])
        more = f" and {len(counts) - _SHOWN} others" if len(counts) > _SHOWN else ""
        (height, width), _ = counts[0]
        how = option("image_size", spoken(f"({height}, {width})", f"[{height},{width}]"))
        raise DataError(
            f"the images have different sizes, height x width: {shown}{more}: pass {how} to scale each and cut off "
            "what lies outside, or make them equal"
        )
    greys = {header.grey: header.file for header in reversed(headers)}
    if options.channels is None and len(greys) > 1:
        counts = Counter(header.grey for header in headers)
        remedy = f"pass {option('channels', 1)} to make all grey, or {option('channels', 3)} for colour"
        raise DataError(
            f"of the images {counts[True]} are grey ({greys[True].name}) and {counts[False]} in colour "
            f"({greys[False].name}): {remedy}"
        )


def decoded(file: Path, options: ImageOptions) -> np.ndarray:
    """An image as an array: grey `[height, width]`, colour `[3, height, width]`; transparency is left out.

    Raises:
        DataError: if it is damaged.
    """
    from PIL import Image, ImageOps

    with opened(file) as image:
        upright = _in_mode(ImageOps.exif_transpose(image), options, file)
        if options.size is not None and upright.size != options.size[::-1]:
            height, width = options.size
            upright = ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC)
        return array_of(upright, str(file))


def _in_mode(image: Any, options: ImageOptions, file: Path) -> Any:
    """The image in the mode that its array will have, since only such an image can be scaled."""
    if image.mode in _DEEP:
        if options.channels == 3:
            raise DataError(f"{file} is grey with more than 256 levels, which {option('channels', 3)} would lose")
        return image
    if image.mode == "1" and options.size is None and options.channels is None:
        return image
    grey = image.mode in _GREY if options.channels is None else options.channels == 1
    return image.convert("L" if grey else "RGB")


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """The open image of a file.

    Raises:
        DataError: with the file, for any error of Pillow's.
        FileError: if the system can't read it.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                yield image
    except PyroVaeError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"can't read {file}: it is no image that Pillow knows: repair it, or move it away") from error
    except Exception as error:  # decoders raise whatever a damaged file leads to
        if isinstance(error, OSError) and error.errno is not None:
            raise FileError.of(error, file, "read") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"can't read the image {file}: {reason}: repair it, or move it away") from error
