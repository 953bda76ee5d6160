"""Images are decoded in place, by whichever library can, and memory is used again."""

import io

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from raytransfer.data.pixels import Buffers, decode

PHOTOGRAPH = Image.fromarray(load_sample_image("china.jpg")[:48, :64])


def encoded(image, form, **settings):
    out = io.BytesIO()
    image.save(out, form, **settings)
    return out.getvalue()


def decoded(data, channels=3):
    out = np.full((48, 64, channels), 77, np.uint8)
    decode(memoryview(data), out)
    return out


def pillow(data, mode):
    return np.asarray(Image.open(io.BytesIO(data)).convert(mode)).reshape(48, 64, -1)


def test_a_jpeg_is_decoded_in_place_by_libjpeg_turbo():
    data = encoded(PHOTOGRAPH, "JPEG", quality=90)
    assert np.array_equal(decoded(data), simplejpeg.decode_jpeg(data, "RGB"))
    assert np.abs(decoded(data).astype(int) - pillow(data, "RGB")).max() <= 2


def test_grey_and_colour_take_each_others_form():
    grey = encoded(PHOTOGRAPH.convert("L"), "JPEG", quality=90)
    assert np.array_equal(decoded(grey, 1), pillow(grey, "L"))
    assert np.array_equal(decoded(grey, 3), np.repeat(decoded(grey, 1), 3, axis=2))
    colour = encoded(PHOTOGRAPH, "JPEG", quality=90)
    assert np.abs(decoded(colour, 1).astype(int) - pillow(colour, "L")).mean() < 1


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
def test_what_is_no_jpeg_is_left_to_pillow(form):
    data = encoded(PHOTOGRAPH, form)
    assert np.array_equal(decoded(data), pillow(data, "RGB"))
    assert np.array_equal(decoded(data, 1), pillow(data, "L"))


def test_a_jpeg_that_libjpeg_turbo_complains_of_is_left_to_pillow():
    data = encoded(PHOTOGRAPH, "JPEG", quality=90)
    data = data[:-2] + b"junk" * 9 + data[-2:]
    with pytest.raises(ValueError, match="extraneous bytes"):
        simplejpeg.decode_jpeg(data, "RGB")
    assert np.array_equal(decoded(data), pillow(data, "RGB"))


def test_a_jpeg_of_printing_colours_is_converted():
    data = encoded(PHOTOGRAPH.convert("CMYK"), "JPEG", quality=90)
    assert np.abs(decoded(data).astype(int) - pillow(data, "RGB")).mean() < 2


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_broken_images_and_those_of_another_size_are_refused(form):
    data = encoded(PHOTOGRAPH, form)
    with pytest.raises((OSError, SyntaxError)):
        decoded(data[: len(data) // 2])
    with pytest.raises(OSError, match="cannot identify"):
        decoded(b"no image")
    for size in ((64, 47), (32, 24), (1, 1), (128, 96)):
        with pytest.raises(ValueError, match=f"it has {size[0]}x{size[1]} pixels, not 64x48"):
            decoded(encoded(PHOTOGRAPH.resize(size), form))


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("allocate", [None, lambda n: torch.empty(n, dtype=torch.uint8).numpy()])
def test_memory_is_used_again_when_nobody_holds_it(allocate):
    buffers = Buffers(allocate)
    first = buffers.take((2, 4, 4, 3))
    place = address(first)
    assert address(buffers.take((2, 4, 4, 3))) != place
    tensor = torch.from_numpy(first.transpose(0, 3, 1, 2))
    del first
    assert address(buffers.take((2, 4, 4, 3))) != place
    part = tensor[1:]
    del tensor
    assert address(buffers.take((2, 4, 4, 3))) != place
    del part
    smaller = buffers.take((1, 4, 4, 3))
    assert address(smaller) == place
    assert smaller.shape == (1, 4, 4, 3)
    del smaller
    assert buffers.take((3, 4, 4, 3)).size == 144
