"""Every colour mode comes out as the same sRGB."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageCms

from core.errors import InvalidRequest
from core.uploads import open_mask, open_picture
from tests.picture_files import (
    BLUE,
    RED,
    assert_same,
    png,
    saved,
    scene,
    swapped_profile,
)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_of_png_is_read(mode: str) -> None:
    grey = Image.new("RGB", (4, 4), "black")
    grey.paste((255, 255, 255), (0, 0, 2, 4))
    assert_same(open_picture(saved(grey.convert(mode))), grey)


def test_grey_of_16_bits_keeps_its_tones() -> None:
    tones = np.array([[0, 128 << 8, 65_535]], np.uint16)
    assert np.asarray(open_picture(saved(Image.fromarray(tones))))[0, :, 0].tolist() == [0, 128, 255]


def test_grey_of_16_bits_may_be_transparent() -> None:
    rows = b"\0" + struct.pack(">HHH", 0, 5, 65_535)
    data = png(3, 1, 16, 0, rows, (b"tRNS", struct.pack(">H", 5)))
    assert np.asarray(open_picture(data))[0, :, 0].tolist() == [0, 255, 255]
    assert open_mask(data, size=(3, 1))[0].tolist() == [0, 1, 0]


def test_rgb_of_16_bits_keeps_its_colours() -> None:
    rows = b"\0" + struct.pack(">HHHHHH", 220 << 8, 30 << 8, 20 << 8, 65_535, 0, 9 << 8)
    data = png(2, 1, 16, 2, rows, (b"tRNS", struct.pack(">HHH", 220 << 8, 30 << 8, 20 << 8)))
    assert np.asarray(open_picture(data))[0].tolist() == [[255, 255, 255], [255, 0, 9]]
    assert np.asarray(open_picture(png(2, 1, 16, 2, rows)))[0].tolist() == [list(RED), [255, 0, 9]]


@pytest.mark.parametrize(("depth", "row"), [(1, 0b01000000), (2, 0b00110000), (4, 0x0F)])
def test_narrow_grey_may_be_transparent(depth: int, row: int) -> None:
    key = struct.pack(">H", 2**depth - 1)
    data = png(2, 1, depth, 0, bytes([0, row]), (b"tRNS", key))
    assert open_mask(data, size=(2, 1))[0].tolist() == [0, 1]
    assert np.asarray(open_picture(data))[0, :, 0].tolist() == [0, 255]


def test_transparency_lies_over_white() -> None:
    picture = Image.new("RGBA", (2, 1), (*RED, 255))
    picture.putpixel((1, 0), (0, 0, 0, 128))
    found = np.asarray(open_picture(saved(picture)))[0]
    assert found[0].tolist() == list(RED)
    assert np.abs(found[1].astype(int) - 127).max() <= 1


def test_transparent_palettes_lie_over_white() -> None:
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([*RED, *BLUE])
    picture.putpixel((1, 0), 1)
    data = saved(picture, transparency=1)
    assert np.asarray(open_picture(data))[0].tolist() == [list(RED), [255, 255, 255]]


def test_cmyk_is_read_by_adobe_s_convention_and_without_it() -> None:
    data = saved(scene(16, 16).convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert_same(open_picture(data), scene(16, 16), 6)
    start = data.index(b"\xff\xee")
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    plain = data[:start] + data[start + 2 + length :]
    with Image.open(io.BytesIO(data)) as adobe:
        assert_same(open_picture(plain), ImageChops.invert(adobe))


def test_colours_follow_their_profile() -> None:
    data = saved(Image.new("RGB", (2, 2), RED), icc_profile=swapped_profile())
    red, green, _ = np.asarray(open_picture(data))[0, 0]
    assert red < green


@pytest.mark.parametrize(
    "profile",
    [b"nonsense", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()],
    ids=["broken", "sRGB"],
)
def test_useless_profiles_change_nothing(profile: bytes) -> None:
    assert_same(open_picture(saved(scene(), icc_profile=profile)), scene())
    grey = scene().convert("L")
    assert_same(open_picture(saved(grey, icc_profile=profile)), grey)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_grey_of_32_bits_is_refused(mode: str) -> None:
    with pytest.raises(InvalidRequest):
        open_picture(saved(Image.new(mode, (2, 2)), "TIFF"))
