"""Style words as filters on a finished picture, so that the model learns them from the same scenes.

Knows pixels only; every filter is deterministic, grain and strokes come from a fixed generator.
"""

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

Floats = NDArray[np.float32]


@cache
def _noise(size: int, cell: int, seed: int) -> Floats:
    """Smooth noise in [-1, 1], [size, size], with features `cell` pixels wide."""
    cells = max(2, size // cell)
    coarse = np.random.default_rng(seed).integers(0, 256, (cells, cells), dtype=np.uint8)
    fine = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(fine, dtype=np.float32) / 127.5 - 1


def _floats(picture: Image.Image) -> Floats:
    return np.asarray(picture, dtype=np.float32)


def _picture(values: Floats) -> Image.Image:
    return Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))


def _edges(picture: Image.Image) -> Image.Image:
    """Grey edge strength, the strongest of the three channels, without the picture's own border."""
    found = picture.filter(ImageFilter.GaussianBlur(0.6)).filter(ImageFilter.FIND_EDGES)
    red, green, blue = found.split()
    edges = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    inside = Image.new("L", picture.size, 0)
    inside.paste(edges.crop((2, 2, picture.width - 2, picture.height - 2)), (2, 2))
    return inside


def _displaced(picture: Image.Image, strength: float, cell: int) -> Floats:
    size = picture.width
    rows, columns = np.mgrid[0:size, 0:size]
    down = np.clip(rows + strength * _noise(size, cell, 1), 0, size - 1).round().astype(np.intp)
    right = np.clip(columns + strength * _noise(size, cell, 2), 0, size - 1).round().astype(np.intp)
    moved: Floats = _floats(picture)[down, right]
    return moved


def black_and_white(picture: Image.Image) -> Image.Image:
    """Luminance with a little more contrast."""
    return ImageEnhance.Contrast(ImageOps.grayscale(picture)).enhance(1.15).convert("RGB")


def sepia(picture: Image.Image) -> Image.Image:
    """Luminance toned from dark brown to cream."""
    return ImageOps.colorize(ImageOps.grayscale(picture), "#2b1605", "#fbeac6", mid="#a9794a")


def pixel_art(picture: Image.Image) -> Image.Image:
    """A 32 pixel wide mosaic of at most 16 colours."""
    small = picture.resize((picture.width // 4, picture.height // 4), Image.Resampling.BOX)
    few = small.quantize(16, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
    return few.resize(picture.size, Image.Resampling.NEAREST)


def sketch(picture: Image.Image) -> Image.Image:
    """Pencil lines and faint hatching on off-white paper."""
    size = picture.width
    lines = np.clip(_floats(_edges(picture)) * 1.9, 0, 205)
    rows, columns = np.mgrid[0:size, 0:size]
    hatch = ((rows + columns) % 4 == 0) * np.clip(150 - _floats(ImageOps.grayscale(picture)), 0, 150) * 0.75
    paper = 248 + 4 * _noise(size, 2, 3)
    grey = np.clip(paper - lines - hatch, 25, 255).astype(np.float32)
    return _picture(np.stack([grey, grey * 0.99, grey * 0.965], axis=-1))


def poster(picture: Image.Image) -> Image.Image:
    """Few saturated flat colours, heavy black outlines and a cream border."""
    size, border = picture.width, picture.width // 16
    inner = picture.resize((size - 2 * border, size - 2 * border), Image.Resampling.LANCZOS)
    flat = inner.quantize(10, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
    vivid = ImageEnhance.Color(flat).enhance(1.7)
    heavy = _edges(inner).point(lambda value: min(255, max(0, value - 60) * 3))
    vivid.paste((22, 20, 26), mask=heavy)
    return ImageOps.expand(vivid, border, (247, 236, 205))


def pastel(picture: Image.Image) -> Image.Image:
    """Pale, soft colours with the grain of chalk."""
    soft = _floats(picture.filter(ImageFilter.GaussianBlur(0.9)))
    grain = 9 * _noise(picture.width, 2, 4)[..., None]
    return _picture(soft * 0.5 + 128 + grain)


def neon(picture: Image.Image) -> Image.Image:
    """Glowing tubes along the edges on a night-blue ground, cyan at the top to magenta below."""
    size = picture.width
    tubes = _edges(picture).point(lambda value: min(255, value * 3))
    glow = ImageEnhance.Brightness(tubes.filter(ImageFilter.GaussianBlur(3))).enhance(1.1)
    down = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    tint = np.array([20, 235, 255], np.float32) * (1 - down) + np.array([255, 40, 200], np.float32) * down
    light = np.maximum(_floats(tubes), 0.8 * _floats(glow))[..., None] / 255
    core = np.clip(_floats(tubes)[..., None] / 255 - 0.75, 0, 1) * 320
    return _picture(np.array([10, 8, 32], np.float32) * (1 - light) + tint * light + core)


def watercolor(picture: Image.Image) -> Image.Image:
    """Washes with wandering edges, darker rims and a border of bare paper."""
    size = picture.width
    washed = _displaced(picture.filter(ImageFilter.ModeFilter(3)), 1.6, 10)
    rims = _floats(_edges(_picture(washed)).filter(ImageFilter.GaussianBlur(1)))[..., None]
    pigment = 0.76 + 0.2 * (_noise(size, 16, 5) + 0.5 * _noise(size, 4, 6))[..., None]
    painted = 255 - (255 - washed) * pigment - 0.35 * rims
    rows, columns = np.mgrid[0:size, 0:size]
    margin = np.minimum(np.minimum(rows, columns), size - 1 - np.maximum(rows, columns))
    bare = np.clip((7 + 5 * _noise(size, 10, 7) - margin) / 2, 0, 1)[..., None]
    return _picture(painted * (1 - bare) + 251 * bare)


def oil_painting(picture: Image.Image) -> Image.Image:
    """Broad strokes: pixels dragged along, a mode filter, and the relief of thick paint."""
    size = picture.width
    rich = ImageEnhance.Color(_picture(_displaced(picture, 1.7, 4))).enhance(1.2)
    strokes = _floats(rich.filter(ImageFilter.ModeFilter(5)))
    relief = _noise(size, 3, 8) + 0.7 * np.roll(_noise(size, 3, 8), 2, axis=1)
    slope = relief - np.roll(relief, (1, 1), axis=(0, 1))
    return _picture(strokes * 0.95 + 11 * slope[..., None] + 12 * _noise(size, 6, 9)[..., None])


FILTERS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "black and white": black_and_white,
    "sepia": sepia,
    "pixel art": pixel_art,
    "sketch": sketch,
    "poster": poster,
    "pastel": pastel,
    "neon": neon,
    "watercolor": watercolor,
    "oil painting": oil_painting,
}
# After these, a colour's name can no longer be told from the picture.
COLORLESS = frozenset({"black and white", "sepia", "sketch", "neon"})


def apply(style: str, picture: Image.Image) -> Image.Image:
    """The picture ([RGB], square) in a style of `FILTERS`; `""` leaves it as it is.

    Raises `KeyError` for a style that no filter teaches.
    """
    return FILTERS[style](picture) if style else picture
