"""Picture files of every kind, made for tests."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms

RED, GREEN, BLUE = (220, 30, 20), (20, 180, 40), (30, 40, 200)


def scene(width: int = 12, height: int = 8) -> Image.Image:
    """Red on the left, blue on the right, a green corner at the top left."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :], pixels[:2, :2] = RED, BLUE, GREEN
    return Image.fromarray(pixels)


def saved(picture: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, file_format, **options)
    return out.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG made by hand; ``extra`` chunks lie before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def assert_same(found: Image.Image, expected: Image.Image, tolerance: int = 0) -> None:
    assert found.mode == "RGB"
    assert found.size == expected.size
    difference = np.abs(np.asarray(found, np.int16) - np.asarray(expected.convert("RGB"), np.int16))
    assert difference.max() <= tolerance


def swapped_profile() -> bytes:
    """sRGB with the primaries of red and green exchanged, and a name of its own."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    for place in range(132, 132 + 12 * count, 12):
        names = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}
        data[place : place + 4] = names.get(bytes(data[place : place + 4]), bytes(data[place : place + 4]))
    return bytes(data).replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))


def drawn_mask(mode: str) -> Image.Image:
    """Paint on the left, keep on the right."""
    white = Image.new("L", (4, 2), 0)
    white.paste(255, (0, 0, 2, 2))
    if mode == "hole":
        picture = Image.new("RGBA", (4, 2), (*RED, 255))
        picture.putalpha(white.point(lambda value: 255 - value))
        return picture
    return white.convert(mode)
