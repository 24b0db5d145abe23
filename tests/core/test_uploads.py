"""Uploads of every kind become upright pictures and masks, or errors that say what is wrong."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.errors import InvalidRequest
from core.settings import RequestLimits
from core.uploads import DEFAULT_MAX_PIXELS, FORMATS, inspect, open_mask, open_picture
from tests.picture_files import (
    BLUE,
    GREEN,
    RED,
    assert_same,
    drawn_mask,
    oriented,
    png,
    saved,
    scene,
    swapped_profile,
)


@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("JPEG", {"quality": 100, "subsampling": 0}, 6),
        ("WebP", {"lossless": True}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
    ],
)
def test_every_format_is_read(file_format: str, options: dict[str, Any], tolerance: int) -> None:
    data = saved(scene(), file_format, **options)
    facts = inspect(data, field="image", max_pixels=96)
    assert (facts.width, facts.height, facts.file_format) == (12, 8, file_format)
    assert_same(open_picture(data), scene(), tolerance)


def test_a_still_gif_is_read() -> None:
    flat = Image.new("RGB", (5, 4), RED)
    assert_same(open_picture(saved(flat.quantize(), "GIF")), flat)


def test_what_the_file_calls_itself_does_not_matter() -> None:
    assert inspect(saved(scene(), "JPEG"), field="image").file_format == "JPEG"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WebP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation: int, file_format: str) -> None:
    # How a camera that is held in that way would store the scene.
    inverse = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    same = {2: 0, 3: 3, 4: 1, 5: 5, 7: 6}
    stored = scene(64, 32)
    if orientation in inverse:
        stored = stored.transpose(inverse[orientation])
    elif orientation in same:
        stored = stored.transpose(Image.Transpose(same[orientation]))
    options: dict[str, Any] = {"lossless": True} if file_format == "WebP" else {}
    if file_format == "JPEG":
        options = {"quality": 100, "subsampling": 0}
    data = saved(stored, file_format, exif=oriented(orientation), **options)
    facts = inspect(data, field="image")
    assert (facts.width, facts.height) == (64, 32)
    assert_same(open_picture(data), scene(64, 32), 8 if file_format == "JPEG" else 0)


def test_a_png_may_say_last_how_it_is_turned() -> None:
    data = saved(scene(64, 32).transpose(Image.Transpose.ROTATE_90))
    body = oriented(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    late = data[:-12] + chunk + data[-12:]
    assert (inspect(late).width, inspect(late).height) == (64, 32)
    assert_same(open_picture(late), scene(64, 32))


def test_a_broken_exif_block_does_no_harm() -> None:
    assert_same(open_picture(saved(scene(), exif=b"Exif\0\0nonsense")), scene())


def test_nothing_of_the_metadata_is_left() -> None:
    text = PngInfo()
    text.add_text("parameters", "who was here")
    found = open_picture(saved(scene(), exif=oriented(6), pnginfo=text, dpi=(72, 72)))
    assert found.info == {}
    assert dict(found.getexif()) == {}
    assert type(found) is Image.Image


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_small_and_thin_pictures_are_read(size: tuple[int, int]) -> None:
    assert open_picture(saved(Image.new("RGB", size, RED))).size == size


@pytest.mark.parametrize("data", [b"", b"x", b"%PDF-1.7", b"<svg></svg>", b"RIFF1234WAVE", b"MZ" * 50])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    for read in (inspect, open_picture):
        with pytest.raises(InvalidRequest, match=r"picture file|empty") as caught:
            read(data, field="face")
        assert (caught.value.field, caught.value.limit) == ("face", list(FORMATS))


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"avif"])
def test_heic_is_refused_by_name(brand: bytes) -> None:
    with pytest.raises(InvalidRequest, match="HEIC"):
        inspect(b"\0\0\0\x20ftyp" + brand + bytes(50), field="image")


@pytest.mark.parametrize("file_format", FORMATS)
def test_truncated_files_are_refused(file_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    data = saved(Image.fromarray(noise), file_format)
    for length in (len(data) // 2, len(data) - 40, 30, 12):
        with pytest.raises(InvalidRequest, match="damaged") as caught:
            open_picture(data[:length], field="photo")
        assert caught.value.field == "photo"


def test_the_header_of_a_truncated_file_is_fine() -> None:
    data = saved(scene(300, 300), "JPEG")
    assert inspect(data[: len(data) - 20], field="image").width == 300


@pytest.mark.parametrize("file_format", ["GIF", "WebP", "PNG", "TIFF"])
def test_animations_are_refused(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, GREEN)]
    data = saved(frames[0], file_format, save_all=True, append_images=frames[1:])
    with pytest.raises(InvalidRequest, match="animation") as caught:
        inspect(data, field="image")
    assert (caught.value.field, caught.value.limit) == ("image", 1)


def test_the_second_picture_of_a_camera_is_ignored() -> None:
    data = saved(scene(16, 16), "MPO", save_all=True, append_images=[scene(16, 16)], quality=100)
    assert inspect(data, field="image").file_format == "JPEG"
    assert open_picture(data).size == (16, 16)


def test_pixels_are_counted_before_they_are_decoded() -> None:
    bomb = png(10_000, 10_000, 1, 0, (b"\0" + bytes(1_250)) * 10_000)
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        for read in (inspect, open_picture):
            with pytest.raises(InvalidRequest, match="10000 × 10000") as caught:
                read(bomb, field="image", max_pixels=99_999_999)
            assert caught.value.limit == 99_999_999
        with pytest.raises(InvalidRequest, match="10000 × 10000"):
            open_mask(bomb, size=(10_000, 10_000))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert inspect(bomb, field="image", max_pixels=100_000_000).width == 10_000


STARVED = """
import resource, sys
from core.errors import InvalidRequest
from core.uploads import inspect, open_mask, open_picture
with open("/proc/self/statm") as statm:
    now = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 60_000_000,) * 2)
data = sys.stdin.buffer.read()
for read in (inspect, open_picture, lambda data: open_mask(data, size=None)):
    try:
        read(data)
    except InvalidRequest as error:
        print(error.limit)
"""


def test_a_bomb_is_refused_where_there_is_no_memory_for_it() -> None:
    bomb = png(10_000, 10_000, 1, 0, (b"\0" + bytes(1_250)) * 10_000)
    found = subprocess.run([sys.executable, "-c", STARVED], input=bomb, capture_output=True, check=True)
    assert found.stdout.split() == [b"50000000"] * 3


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_bombs_beside_the_pixels_are_refused_or_ignored(kind: bytes) -> None:
    packed = zlib.compress(bytes(80_000_000), 9)
    body = b"name\0\0" + (b"\0\0\0" if kind == b"iTXt" else b"") + packed
    if kind == b"iTXt":
        body = b"name\0\x01\0\0\0" + packed
    data = png(1, 1, 8, 2, bytes(4), (kind, body))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match="damaged"):
            inspect(data, field="image")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_tiles_larger_than_the_picture_are_refused() -> None:
    data = bytearray(saved(scene(16, 16), "TIFF"))
    start = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[start : start + 2])[0]
    entries = [data[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    entries += [bytearray(struct.pack("<HHII", tag, 4, 1, 60_000)) for tag in (322, 323)]
    body = b"".join(bytes(entry) for entry in sorted(entries, key=lambda e: struct.unpack("<H", e[:2])[0]))
    moved = bytes(data[:4]) + struct.pack("<I", len(data)) + bytes(data[8:])
    with pytest.raises(InvalidRequest, match="tiles of 60000 × 60000"):
        inspect(moved + struct.pack("<H", count + 2) + body + bytes(4), field="image")


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest):
        open_picture(png(*size, 8, 2, b""))


def test_the_default_limit_is_that_of_the_settings() -> None:
    assert RequestLimits().max_upload_pixels == DEFAULT_MAX_PIXELS


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "hole"])
def test_masks_paint_where_white_or_transparent(mode: str) -> None:
    found = open_mask(saved(drawn_mask(mode)), size=(4, 2))
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 1, 0, 0]] * 2


def test_masks_may_be_soft() -> None:
    grey = Image.fromarray(np.array([[0, 51, 255]], np.uint8))
    assert np.allclose(open_mask(saved(grey), size=(3, 1)), [[0, 0.2, 1]])
    picture = Image.new("RGB", (3, 1))
    picture.putalpha(grey)
    assert np.allclose(open_mask(saved(picture), size=(3, 1)), [[1, 0.8, 0]])


def test_a_nearly_opaque_mask_is_read_by_its_colours() -> None:
    picture = drawn_mask("RGB")
    picture.putalpha(254)
    assert open_mask(saved(picture), size=None).tolist() == [[1, 1, 0, 0]] * 2


def test_ripples_of_lossy_masks_are_no_wish_to_paint() -> None:
    white = Image.new("L", (64, 64), 0)
    white.paste(255, (11, 13, 50, 47))
    found = open_mask(saved(white, "JPEG", quality=85), size=(64, 64))
    assert found[:8].max() == 0
    assert found[20:40, 20:40].min() == 1


def test_masks_are_turned_upright() -> None:
    stored = drawn_mask("L").transpose(Image.Transpose.ROTATE_90)
    assert open_mask(saved(stored, exif=oriented(6)), size=(4, 2)).tolist() == [[1, 1, 0, 0]] * 2


def test_a_mask_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(InvalidRequest, match=r"4 × 2 .* 8 × 4") as caught:
        open_mask(saved(drawn_mask("L")), size=(8, 4))
    assert (caught.value.field, caught.value.limit) == ("mask", {"width": 8, "height": 4})


FILES = [saved(scene(), name) for name in ("PNG", "JPEG", "WebP", "BMP", "GIF", "TIFF")]
FILES.append(saved(scene(), "TIFF", compression="jpeg"))
FILES.append(saved(scene(), "JPEG", exif=oriented(6), icc_profile=swapped_profile()))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_damage_is_anything_but_an_invalid_request(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(FILES)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(len(content) // 2, len(content)))
    for read in (inspect, open_picture):
        with suppress(InvalidRequest):
            read(bytes(content[:cut]), field="image", max_pixels=100_000)
