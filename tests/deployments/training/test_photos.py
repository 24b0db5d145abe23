from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage import data

from core.specs import Box
from deployments.training.photos import Look, look_at, same_pictures, warnings_about


def photo(name: str = "astronaut") -> Image.Image:
    return Image.fromarray(getattr(data, name)()[:300, :300])


def look(picture: Image.Image, model_side: int = 128) -> Look:
    side = min(picture.size)
    return look_at(picture, Box(left=0, top=0, width=side, height=side), model_side)


def saved(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def noise(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8)
    return Image.fromarray(values).resize((160, 160), Image.Resampling.NEAREST)


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_a_picture_saved_again_is_the_same(quality: int) -> None:
    original = photo()
    smaller = original.resize((200, 200))
    looks = [look(each) for each in (original, saved(original, quality), saved(smaller, quality))]
    assert same_pictures(looks) == [[1, 2, 3]]


def test_other_pictures_are_others() -> None:
    brighter = Image.fromarray(np.asarray(photo()).astype(np.uint16).clip(0, 200).astype(np.uint8) + 40)
    looks = [look(each) for each in (photo(), photo("chelsea"), brighter, noise(1), noise(2))]
    assert same_pictures(looks) == []


def test_the_warning_lists_the_numbers() -> None:
    looks = [look(each) for each in (noise(1), noise(2), noise(2), noise(3), noise(2), noise(3))]
    assert warnings_about(looks, 128) == [
        "Photos 2, 3 and 5 are the same picture; different ones teach more.",
        "Photos 4 and 6 are the same picture; different ones teach more.",
    ]


def test_small_and_blurred_photos_are_named() -> None:
    blurred = photo().filter(ImageFilter.GaussianBlur(12))
    looks = [look(noise(1)), look(noise(2).resize((90, 90))), look(blurred)]
    small, soft = warnings_about(looks, 128)
    assert "Photo 2" in small
    assert "90 × 90" in small
    assert soft == "Photo 3 is blurred."


def test_sharp_photos_are_not_complained_about() -> None:
    assert warnings_about([look(photo()), look(photo("chelsea")), look(photo("coffee"))], 128) == []
