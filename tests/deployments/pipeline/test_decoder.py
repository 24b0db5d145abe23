from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor

from core.errors import GenerationFailed
from core.settings import Precision
from deployments.pipeline import decoder as decoder_module
from deployments.pipeline.decoder import PictureDecoder, pictures_at_once
from weights import registry


@pytest.fixture(scope="module")
def vae(tiny_model_id: str) -> Any:
    return registry.load_vae(tiny_model_id)


@pytest.fixture
def decoder(vae: Any) -> PictureDecoder:
    return PictureDecoder(vae, sample_size=8)


def latents(seed: int, side: int = 8) -> torch.Tensor:
    return torch.randn((4, side, side), generator=torch.Generator().manual_seed(seed))


async def test_pixels_equal_those_of_the_diffusers_pipeline(decoder: PictureDecoder, vae: Any) -> None:
    pixels = await decoder.decode(latents(0))
    with torch.no_grad():
        decoded = vae.decode(latents(0)[None] / vae.config.scaling_factor, return_dict=False)[0]
    expected = (VaeImageProcessor().postprocess(decoded, output_type="np")[0] * 255).round()
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels.astype(int) - expected.astype(int)).max() <= 1


async def test_pictures_of_a_batch_equal_those_decoded_alone(decoder: PictureDecoder) -> None:
    together = await asyncio.gather(*(decoder.decode(latents(seed)) for seed in range(5)))
    for seed, pixels in enumerate(together):
        (alone,) = decoder.decode_batch([latents(seed)])
        assert np.abs(pixels.astype(int) - alone.astype(int)).max() <= 1


async def test_sizes_may_be_mixed(decoder: PictureDecoder) -> None:
    pictures = await asyncio.gather(*(decoder.decode(latents(0, side)) for side in (8, 4, 8, 6)))
    assert [picture.shape[0] for picture in pictures] == [32, 16, 32, 24]


async def test_latents_without_a_picture_fail_alone(decoder: PictureDecoder) -> None:
    broken = torch.full((4, 8, 8), torch.nan)
    good, bad, also_good = await asyncio.gather(
        *map(decoder.decode, (latents(0), broken, latents(1))), return_exceptions=True
    )
    assert isinstance(bad, GenerationFailed)
    assert not isinstance(good, BaseException)
    assert not isinstance(also_good, BaseException)


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_lower_precision_stays_close_to_exact(vae: Any, precision: Precision) -> None:
    (exact,) = PictureDecoder(vae, sample_size=8).decode_batch([latents(0)])
    (rough,) = PictureDecoder(vae, precision=precision, sample_size=8).decode_batch([latents(0)])
    error = np.square(exact.astype(float) - rough.astype(float)).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 35


def test_measuring_a_precision_leaves_the_weights_alone(vae: Any) -> None:
    before = vae.decoder.conv_in.weight.clone()
    PictureDecoder(vae, precision="auto", sample_size=8)
    assert torch.equal(vae.decoder.conv_in.weight, before)


def test_the_estimate_grows_with_the_area(decoder: PictureDecoder) -> None:
    assert decoder.estimate_s(64, 64) == pytest.approx(4 * decoder.estimate_s(32, 32))
    assert decoder.estimate_s(32, 32) > 0


def test_an_autoencoder_that_overflows_in_float16_is_not_run_in_it(vae: Any) -> None:
    def dtype(precision: Precision, *, upcast: bool = False) -> torch.dtype:
        return PictureDecoder(vae, precision=precision, sample_size=8, upcast=upcast).dtype

    assert dtype("float16") == torch.float16
    assert dtype("float16", upcast=True) == torch.float32
    assert dtype("bfloat16", upcast=True) == torch.bfloat16


@pytest.mark.parametrize(("side", "number"), [(128, 64), (512, 4), (1024, 1), (2048, 1)])
def test_fewer_large_pictures_are_decoded_together(side: int, number: int) -> None:
    assert pictures_at_once(side * side) == number


def test_pictures_decoded_in_turns_equal_those_decoded_together(
    decoder: PictureDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = [latents(seed) for seed in range(3)]
    together = decoder.decode_batch(several)
    monkeypatch.setattr(decoder_module, "_MAX_PIXELS", 32 * 32)
    for one, other in zip(decoder.decode_batch(several), together, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
