"""Picture files carry their parameters and nothing else."""

import io

import numpy as np
import pytest
from PIL import Image

from core.images import encode, parameters_text
from core.types import OutputFormat

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def test_png_is_lossless_and_carries_parameters() -> None:
    picture = opened(encode(PIXELS, OutputFormat.PNG, parameters="a cat\nSteps: 20"))
    assert np.array_equal(np.asarray(picture), PIXELS)
    assert picture.info["parameters"] == "a cat\nSteps: 20"


def test_png_parameters_may_be_any_unicode() -> None:
    assert opened(encode(PIXELS, OutputFormat.PNG, parameters="Füchse 狐")).info["parameters"] == "Füchse 狐"


def test_without_parameters_a_png_has_no_text() -> None:
    assert opened(encode(PIXELS, OutputFormat.PNG)).info == {}


@pytest.mark.parametrize("output_format", [OutputFormat.JPEG, OutputFormat.WEBP])
def test_lossy_formats_carry_parameters_as_user_comment(output_format: OutputFormat) -> None:
    picture = opened(encode(PIXELS, output_format, quality=90, parameters="a cat"))
    comment = picture.getexif().get_ifd(0x8769)[0x9286]
    assert comment == b"UNICODE\0" + "a cat".encode("utf-16-be")
    assert picture.size == (16, 24)


@pytest.mark.parametrize("output_format", [OutputFormat.JPEG, OutputFormat.WEBP])
def test_quality_costs_bytes(output_format: OutputFormat) -> None:
    assert len(encode(PIXELS, output_format, quality=20)) < len(encode(PIXELS, output_format, quality=95))


def test_parameters_have_the_form_of_the_a1111_web_ui() -> None:
    text = parameters_text("a cat", "blurry", {"Steps": 20, "Seed": 7})
    assert text == "a cat\nNegative prompt: blurry\nSteps: 20, Seed: 7"
    assert parameters_text("a cat", "", {"Steps": 20}) == "a cat\nSteps: 20"
