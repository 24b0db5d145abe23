"""Pixels of any colour mode as 8-bit grey or sRGB, and where they are transparent. Knows Pillow alone."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageChops, ImageCms
from PIL.ImageFile import ImageFile

_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def with_channels_of_8_bits(picture: ImageFile, data: bytes) -> Image.Image:
    """Decode ``picture``, the file ``data``, into one of the modes L, LA, RGB, RGBA and CMYK.

    Raises:
        ValueError: for 32-bit and floating-point grey and other rare modes.
        OSError, SyntaxError: as Pillow's readers do over damaged files.
    """
    # Bit depth and colour type of a PNG, from its IHDR chunk.
    depth = data[24] if picture.format == "PNG" else 8
    picture.load()
    key = picture.info.get("transparency")
    if picture.mode.startswith("I;16"):
        return _from_16_bits(picture, key if isinstance(key, int) else None)
    if isinstance(key, tuple) and depth == 16:
        picture.info["transparency"] = tuple(value >> 8 for value in key)
    elif isinstance(key, int) and picture.mode == "L" and depth < 8:
        # Pillow widens the pixels to 8 bits and leaves the transparent value as it was.
        picture.info["transparency"] = key * 255 // (2**depth - 1)
    wanted = _target_mode(picture)
    if picture.mode == "CMYK" and picture.format in ("JPEG", "MPO") and "adobe" not in picture.info:
        # Pillow takes every CMYK JPEG for one by Adobe's programs, which write them inverted.
        return _keeping_info(ImageChops.invert(picture), picture)
    return picture if picture.mode == wanted else _keeping_info(picture.convert(wanted), picture)


def to_rgb(picture: Image.Image) -> Image.Image:
    """Mode RGB in sRGB, over white where ``picture`` is transparent, without metadata.

    ``picture`` is in one of the modes of ``with_channels_of_8_bits``.
    """
    alpha = transparency_of(picture)
    opaque = picture if alpha is None else picture.convert("L" if picture.mode == "LA" else "RGB")
    colours = _managed(opaque, picture.info.get("icc_profile")) or opaque.convert("RGB")
    if alpha is not None:
        over_white = Image.new("RGB", picture.size, "white")
        over_white.paste(colours, mask=alpha)
        return over_white
    colours.info = {}
    return colours


def to_grey(picture: Image.Image) -> Image.Image:
    """Mode L without metadata, transparency ignored; for masks, so no profile is applied."""
    grey = (picture.convert("RGB") if picture.mode == "CMYK" else picture).convert("L")
    grey.info = {}
    return grey


def transparency_of(picture: Image.Image) -> Image.Image | None:
    """The alpha channel, mode L, if ``picture`` has one."""
    return picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None


def _target_mode(picture: Image.Image) -> str:
    if picture.mode in ("I", "F"):
        raise ValueError("grey of 32 bits")
    if picture.mode in ("1", "L", "LA", "La"):
        return "LA" if picture.has_transparency_data else "L"
    if picture.mode == "CMYK":
        return "CMYK"
    return "RGBA" if picture.has_transparency_data else "RGB"


def _from_16_bits(picture: Image.Image, key: int | None) -> Image.Image:
    """Grey of 16 bits; ``key`` is the transparent value."""
    values = np.asarray(picture)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if key is not None:
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return _keeping_info(grey, picture)


def _keeping_info(converted: Image.Image, picture: Image.Image) -> Image.Image:
    """EXIF and profile are still needed."""
    converted.info = {name: value for name, value in picture.info.items() if name != "transparency"}
    return converted


def _managed(picture: Image.Image, profile: bytes | None) -> Image.Image | None:
    """``picture`` in sRGB by its ICC profile; None if that changes nothing or makes no sense."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _PROFILE_SPACES[picture.mode]:
            return None
        if "sRGB" in (source.profile.profile_description or ""):
            return None
        return ImageCms.profileToProfile(picture, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
