"""Encoded images to what a shard holds: decoded, upright, warped or cropped, encoded again."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from raytransfer.data.pixels import JPEG, of_pillow, opened

Fit = Literal["warp", "crop"]
Pixels = NDArray[np.uint8]
"""[height, width, channels]"""

MEAN_SIDE = 32
"""Mean images are kept at this height and width at most: 12 MB for 1,000 classes of colour."""

MOST_PIXELS = 100_000_000
"""A larger image is refused unread, as a few bytes of it may claim any number of pixels."""

_EXIF = b"Exif\0\0"
_APPLICATION = {bytes([marker]) for marker in (*range(0xE0, 0xF0), 0xFE)}
_ORIENTATION = 0x112


@dataclass(frozen=True)
class Form:
    """What every image is made into."""

    channels: int
    """1 (grey) or 3 (RGB)."""
    size: int | None = 256
    """Pixels of the square that images are made into; None keeps each as it is, byte by byte."""
    fit: Fit = "warp"
    """warp takes the whole image, aspect ratio not kept (paper, section 3); crop the largest square
    in its middle."""
    quality: int = 90
    """Of JPEG, 1 to 95; grey images are PNG."""


@dataclass(frozen=True)
class Converted:
    """An image as it goes into a shard."""

    encoded: bytes
    original: tuple[int, int]
    """Width and height of the image as it came, as those of `stored`."""
    stored: tuple[int, int]
    reduced: Pixels
    """At most MEAN_SIDE a side, for the mean image."""


def convert(encoded: bytes, form: Form) -> Converted | str:
    """The image in its new form, or why it cannot be read, in a few words."""
    try:
        if form.size is None:
            # Who reads it as it is will not turn it.
            pixels, original = decode(encoded, form.channels, upright=False)
        else:
            pixels, original = decode(encoded, form.channels, 2 * form.size)
    except UnidentifiedImageError:
        return "not an image" if encoded else "an empty file"
    except Exception as error:  # a decoder may raise anything at a broken file
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if form.size is None:
        # Kept images may differ in size; their means must not. Small ones of IDX files do not.
        side = (MEAN_SIDE, MEAN_SIDE)
        small = pixels.shape[:2] if form.channels == 1 and max(pixels.shape) <= MEAN_SIDE else side
    else:
        pixels = fitted(pixels, form.size, form.fit)
        small = (min(form.size, MEAN_SIDE),) * 2
        encoded = encode(pixels, form.quality)
    height, width = pixels.shape[:2]
    return Converted(encoded, original, (width, height), _shrunk(pixels, *small))


def decode(
    encoded: bytes, channels: int, at_least: int | None = None, upright: bool = True
) -> tuple[Pixels, tuple[int, int]]:
    """Pixels, and the original's width and height; both turned as its EXIF says, if `upright`.

    at_least: pixels a side that are enough: a JPEG of twice as many or more is decoded at a
    fraction of its size, the smallest of n/8 that leaves so many; None for all there are. Raises
    what Pillow raises for a broken image, and ValueError for one that claims more than MOST_PIXELS.
    """
    if encoded[:3] == JPEG:
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
            _check_size(width, height)
            colours = "GRAY" if channels == 1 else "RGB"
            least = at_least or 0
            pixels = simplejpeg.decode_jpeg(
                encoded, colours, min_height=least, min_width=least, min_factor=2
            )
            turn = _orientation(encoded) if upright else 1
            return _turned(pixels, turn), (height, width) if turn >= 5 else (width, height)
        except ValueError as error:
            # What this strict decoder refuses, Pillow may know: CMYK, or junk between segments.
            if isinstance(error, _TooLargeError):
                raise
    with _quietly(encoded) as image:
        _check_size(*image.size)
        turn = image.getexif().get(_ORIENTATION, 1) if upright else 1
        pixels = of_pillow(image, channels)
    pixels = _turned(pixels, turn)
    return pixels, (pixels.shape[1], pixels.shape[0])


@contextmanager
def _quietly(encoded: bytes) -> Iterator[Image.Image]:
    """What Pillow warns of, such as EXIF that it cannot read, harms no pixel."""
    with warnings.catch_warnings(action="ignore"), opened(encoded) as image:
        yield image


class _TooLargeError(ValueError):
    pass


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise _TooLargeError(f"{width}x{height} pixels are more than the {MOST_PIXELS:,} allowed")


def _orientation(jpeg: bytes) -> int:
    """The EXIF orientation of a JPEG, 1 to 8; 1 is upright."""
    if not _has_exif(jpeg):
        return 1
    try:
        with _quietly(jpeg) as image:
            return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing, and the pixels are fine
        return 1


def _has_exif(jpeg: bytes) -> bool:
    """Whether one of the application segments at the beginning of a JPEG is EXIF's."""
    place = 2
    while jpeg[place : place + 1] == b"\xff" and jpeg[place + 1 : place + 2] in _APPLICATION:
        if jpeg.startswith(_EXIF, place + 4):
            return True
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4])
    return False


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (2 and 4 mirror, 3 turns by 180 degrees, 5 to 8 transpose)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def fitted(pixels: Pixels, size: int, fit: Fit) -> Pixels:
    """A square of `size` pixels a side.

    Bilinear, as the authors' images were made (Caffe's tools use OpenCV's default); what is more
    than twice too large is shrunk to areas' means first, as bilinear would skip pixels.
    """
    height, width = pixels.shape[:2]
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
        height = width = side
    if max(height, width) >= 2 * size:
        target = max(1, width // max(1, width // size)), max(1, height // max(1, height // size))
        pixels = _channels(cv2.resize(pixels, target, interpolation=cv2.INTER_AREA))
    if pixels.shape[:2] != (size, size):
        pixels = _channels(cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR))
    return np.ascontiguousarray(pixels)


def _shrunk(pixels: Pixels, height: int, width: int) -> Pixels:
    """Means of areas. Halved while that is exact, which takes OpenCV half the time."""
    while pixels.shape[0] % 2 == pixels.shape[1] % 2 == 0 and (
        pixels.shape[0] >= 4 * height and pixels.shape[1] >= 4 * width
    ):
        half = pixels.shape[1] // 2, pixels.shape[0] // 2
        pixels = _channels(cv2.resize(pixels, half, interpolation=cv2.INTER_AREA))
    if pixels.shape[:2] == (height, width):
        return pixels
    return _channels(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA))


def _channels(image: NDArray[Any]) -> Pixels:
    """OpenCV drops the channel of grey images."""
    return image[:, :, None] if image.ndim == 2 else image


def encode(pixels: Pixels, quality: int) -> bytes:
    """JPEG of colour (halved in chroma, as photographs are); PNG of grey."""
    if pixels.shape[2] == 1:
        return encode_png(pixels[:, :, 0])
    encoded: bytes = simplejpeg.encode_jpeg(
        pixels, quality, colorspace="RGB", colorsubsampling="420"
    )
    return encoded


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels [height, width(, 3)] as the smallest PNG that Pillow makes."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()
