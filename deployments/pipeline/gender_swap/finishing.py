"""Painted picture files, judged and finished: black ones found, the background given back.

Knows files and pixels; not how they were painted.
"""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from core import images
from core.specs import GenderSwapSpec
from core.types import Picture
from core.uploads import open_picture
from deployments.pipeline.gender_swap.portrait import Portrait, is_black, pixels_of


def shows_nothing(picture: Picture, portrait: Portrait | None) -> bool:
    """Whether what was painted of ``picture`` is black."""
    pixels = pixels_of(open_picture(picture.image))
    return is_black(pixels, None if portrait is None else portrait.painted)


def finished(picture: Picture, spec: GenderSwapSpec, portrait: Portrait | None, tolerance: int) -> Picture:
    """``picture``, a PNG painted inside ``portrait``, with its background and in the format of ``spec``.

    A picture painted as a whole is finished already.
    """
    if portrait is None:
        return picture
    with Image.open(io.BytesIO(picture.image), formats=["PNG"]) as file:
        parameters = str(file.info.get("parameters", ""))
    pixels = portrait.with_background(pixels_of(open_picture(picture.image)), tolerance)
    image = images.encode(
        np.ascontiguousarray(pixels), spec.output_format, quality=spec.quality, parameters=parameters
    )
    return replace(picture, image=image, media_type=spec.output_format.media_type)
