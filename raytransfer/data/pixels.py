"""From encoded images to pixels, in place: JPEG by libjpeg-turbo, all else by Pillow."""

import io
import sys
from collections.abc import Callable

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

JPEG = b"\xff\xd8\xff"

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")
"""That Pillow may take an image for. It knows more, one of which it hands to Ghostscript."""


def opened(encoded: bytes | memoryview) -> Image.Image:
    """By Pillow, its pixels not read yet. Raises what Pillow raises for no image."""
    return Image.open(io.BytesIO(encoded), formats=FORMATS)


def decode(encoded: memoryview, out: NDArray[np.uint8]) -> None:
    """Decodes an image into `out`, contiguous [height, width, channel] with 1 or 3 channels.

    JPEG that libjpeg-turbo has nothing to complain of is decoded straight into `out`, without
    Python's lock; everything else is left to Pillow.
    Raises what Pillow raises for a broken image, and ValueError for one of another size.
    """
    if encoded[:3] == JPEG:
        colours = "GRAY" if out.shape[2] == 1 else "RGB"
        try:
            pixels = simplejpeg.decode_jpeg(encoded, colours, buffer=out)
        except ValueError:
            pass
        else:
            # A smaller image fills the buffer in part, without complaint.
            if pixels.shape == out.shape:
                return
    with opened(encoded) as image:
        if image.size != (out.shape[1], out.shape[0]):
            raise ValueError(
                f"it has {image.width}x{image.height} pixels, not {out.shape[1]}x{out.shape[0]}"
            )
        out[...] = of_pillow(image, out.shape[2])


def of_pillow(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """The pixels of an image as 1 (grey) or 3 (RGB) channels, [height, width, channel].

    Raises ValueError where they are numbers of 32 bits, of which nobody knows what is white.
    """
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError("its pixels are numbers of 32 bits, not shades")
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow would cut 16 bits off at 255.
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    mode = "L" if channels == 1 else "RGB"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels[:, :, None] if channels == 1 else pixels


def channel_first(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[n, height, width, channel] as [n, channel, height, width], the same memory: PyTorch knows
    it as channels_last."""
    return images.transpose(0, 3, 1, 2)


def channel_last(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The way back."""
    return images.transpose(0, 2, 3, 1)


class Buffers:
    """Memory for batches, used again when nobody holds the batch: the kernel clears each page of
    new memory, which takes a third of the time of decoding into it."""

    def __init__(self, allocate: Callable[[int], NDArray[np.uint8]] | None = None) -> None:
        """allocate: gives an array of so many bytes; None for NumPy's own."""
        self._allocate = allocate or (lambda size: np.empty(size, np.uint8))
        self._arrays: list[NDArray[np.uint8]] = []

    def take(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An array of that shape with arbitrary content. Its memory comes back by itself."""
        size = int(np.prod(shape))
        array = None
        for place in range(len(self._arrays)):
            # Every view refers to the whole array. Idle, it counts two references: the list's, and
            # that of the call.
            if sys.getrefcount(self._arrays[place]) == 2:
                array = self._arrays.pop(place)
                break
        if array is None or len(array) < size:
            array = self._allocate(size)
        self._arrays.append(array)
        return array[:size].reshape(shape)
