"""Picture files that clients send: what they are, and their pixels. Knows Pillow, not HTTP and not torch.

Only the content counts, never a file's name or declared type. Sizes are checked before pixels are decoded.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from core.colours import to_grey, to_rgb, transparency_of, with_channels_of_8_bits
from core.errors import InvalidRequest

DEFAULT_MAX_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG", "WebP", "BMP", "GIF", "TIFF")

# Pillow's classes rather than Image.open: that warns or raises at limits of its own.
_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.jpeg_factory,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
# What Pillow's readers raise over damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    RuntimeError,
    AttributeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,  # where warnings are errors
)
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TILE_TAGS = (322, 323)
# Compression leaves ripples beside the edges of a mask; below this they are no wish to paint.
_LOSSY = ("JPEG", "WebP")
_RIPPLE = 16 / 255


@dataclass(frozen=True, slots=True)
class UploadFacts:
    """What a picture file's header says. Sizes are those of the upright picture, in pixels."""

    width: int
    height: int
    file_format: str


def inspect(data: bytes, *, field: str = "image", max_pixels: int = DEFAULT_MAX_PIXELS) -> UploadFacts:
    """Read the header of a picture file; its pixels are not decoded, so they may still be damaged.

    Raises:
        InvalidRequest: naming ``field``, for anything but one still picture of at most ``max_pixels``
            in one of ``FORMATS``.
    """
    picture, file_format = _open(data, field, max_pixels)
    width, height = picture.size
    if file_format == "PNG" and "exif" not in picture.info and (late := _late_exif(data)):
        picture.info["exif"] = late
    if _orientation(picture) >= 5:
        width, height = height, width
    return UploadFacts(width, height, file_format)


def open_picture(data: bytes, *, field: str = "image", max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """The picture in sRGB (mode ``RGB``), upright, over white where it is transparent.

    Nothing of the file's metadata is left on it. Colours follow an embedded ICC profile.

    Raises:
        InvalidRequest: as ``inspect`` does, and for a file whose pixels are damaged or missing.
    """
    picture, orientation, file_format = _decoded(data, field, max_pixels)
    with _refusing_damage(file_format, field):
        return _upright(to_rgb(picture), orientation)


def open_mask(
    data: bytes,
    *,
    size: tuple[int, int] | None,
    field: str = "mask",
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> NDArray[np.float32]:
    """How much to paint where, ``[height, width]`` from 0 (keep) to 1 (paint anew), upright.

    An opaque file paints where it is white, and in part where it is grey. A file that is transparent
    somewhere, by half or more, paints where it is transparent and its colours say nothing, as OpenAI's
    clients mean it. So white strokes on a transparent canvas have to be laid over black first: nothing
    in such a file tells them from a white picture with holes. ``size`` is (width, height) of the upright
    picture that the mask belongs to, None if any will do; a mask is never scaled.

    Raises:
        InvalidRequest: as ``open_picture`` does, and for another size.
    """
    facts = inspect(data, field=field, max_pixels=max_pixels)
    if size is not None and (facts.width, facts.height) != size:
        raise wrong_size(facts, size, field)
    picture, orientation, file_format = _decoded(data, field, max_pixels)
    alpha = transparency_of(picture)
    if alpha is not None and alpha.histogram()[:128] != [0] * 128:
        values = 255 - np.asarray(_upright(alpha, orientation))
    else:
        values = np.asarray(_upright(to_grey(picture), orientation))
    paint = values.astype(np.float32) / np.float32(255)
    if file_format in _LOSSY:
        paint[paint < _RIPPLE] = 0
        paint[paint > 1 - _RIPPLE] = 1
    return paint


def wrong_size(mask: UploadFacts, size: tuple[int, int], field: str) -> InvalidRequest:
    """The error for a mask of another size than its picture's."""
    width, height = size
    return InvalidRequest(
        f"The mask has {mask.width} × {mask.height} pixels and the picture {width} × {height}; "
        "they must be the same.",
        field=field,
        limit={"width": width, "height": height},
    )


def sniff(data: bytes) -> str | None:
    """Which of ``FORMATS`` the content begins like, ``HEIF`` for HEIC and AVIF files, None for others."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "HEIF"
    return next((name for magic, name in _MAGIC if data.startswith(magic)), None)


def _open(data: bytes, field: str, max_pixels: int) -> tuple[ImageFile, str]:
    """The file with its header read and checked, and its format."""
    file_format = sniff(data)
    if file_format is None or file_format == "HEIF":
        what = "HEIC and AVIF pictures are not read" if file_format else "This is not a picture file"
        if not data:
            what = "The file is empty"
        raise InvalidRequest(f"{what}. One of: {', '.join(FORMATS)}.", field=field, limit=list(FORMATS))
    with _refusing_damage(file_format, field):
        picture = _OPENERS[file_format](io.BytesIO(data))
        width, height = picture.size
        _check_pixels(width * height, max_pixels, f"{width} × {height} pixels", field)
        if isinstance(picture, TiffImagePlugin.TiffImageFile):
            _check_tiles(picture, max_pixels, field)
        # A camera's JPEG may hold a second picture (MPO: depth, brightness); the first is the photo.
        moving = file_format != "JPEG" and bool(getattr(picture, "is_animated", False))
    if min(width, height) < 1:
        raise _damaged(file_format, field)
    if moving:
        raise InvalidRequest(
            "The file holds several pictures or an animation; send a single still picture.",
            field=field,
            limit=1,
        )
    return picture, file_format


def _decoded(data: bytes, field: str, max_pixels: int) -> tuple[Image.Image, int, str]:
    """The picture as it lies in the file, its orientation, and its format."""
    picture, file_format = _open(data, field, max_pixels)
    with _refusing_damage(file_format, field):
        picture.load()
        # A PNG may say so after its pixels.
        orientation = _orientation(picture)
        return with_channels_of_8_bits(picture, data), orientation, file_format


def _check_pixels(pixels: int, max_pixels: int, what: str, field: str) -> None:
    if pixels > max_pixels:
        raise InvalidRequest(
            f"A picture may have {max_pixels} pixels; this one has {what}.", field=field, limit=max_pixels
        )


def _check_tiles(picture: TiffImagePlugin.TiffImageFile, max_pixels: int, field: str) -> None:
    """A TIFF's tiles may be larger than the picture, and are decoded whole."""
    width, height = (int(picture.tag_v2.get(tag, 0)) for tag in _TILE_TAGS)
    _check_pixels(width * height, max(max_pixels, 1_000_000), f"tiles of {width} × {height} pixels", field)


def _orientation(picture: Image.Image) -> int:
    """EXIF's orientation, 1 for none. Pillow has applied a TIFF's own already."""
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        return 1
    try:
        # Not the PNG class's own, which decodes the pixels.
        value = Image.Image.getexif(picture).get(_ORIENTATION_TAG, 1)
    except _DAMAGE:
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _late_exif(data: bytes) -> bytes | None:
    """The EXIF block that a PNG may have after its pixels, where Pillow finds it once they are decoded."""
    start = len(_MAGIC[0][0])
    while start + 8 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] == b"eXIf":
            return data[start + 8 : end]
        start = end + 4
    return None


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


@contextmanager
def _refusing_damage(file_format: str, field: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise _damaged(file_format, field) from error


def _damaged(file_format: str, field: str) -> InvalidRequest:
    return InvalidRequest(f"The {file_format} file is damaged or cut short.", field=field)
