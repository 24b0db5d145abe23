"""Latents of photos, and which of them each step sees."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deployments.training.dataset import Draws, latents_of
from tests.tiny_family import build_tiny_family
from weights import registry

CPU = torch.device("cpu")


def photo(width: int, height: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def draws(num_photos: int = 5, num_others: int = 3, batch_size: int = 2, seed: int = 0) -> Draws:
    photos = torch.arange(num_photos).float()[:, None, None, None].expand(-1, 4, 2, 2)
    others = 100 + torch.arange(num_others).float()[:, None, None, None].expand(-1, 4, 2, 2)
    return Draws(photos, others if num_others else None, batch_size, 1000, seed)


def test_latents_are_the_encoders_mean_and_mirrored_ones_follow_their_photo(tmp_path: Path) -> None:
    vae = registry.load_vae(f"path:{build_tiny_family(tmp_path)}")
    files = [photo(32, 32, seed) for seed in range(3)]
    latents = latents_of(vae, files, 32, flip=True, device=CPU)
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files]))
    scaled = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = vae.encode(scaled).latent_dist.mean * vae.config.scaling_factor
        mirrored = vae.encode(scaled.flip(-1)).latent_dist.mean * vae.config.scaling_factor
    torch.testing.assert_close(latents[::2], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(latents[1::2], mirrored, rtol=1e-4, atol=1e-5)


def test_photos_of_any_size_become_the_models(tmp_path: Path) -> None:
    vae = registry.load_vae(f"path:{build_tiny_family(tmp_path)}")
    latents = latents_of(vae, [photo(90, 90), photo(32, 32), photo(7, 7)], 32, flip=False, device=CPU)
    assert latents.shape == (3, 4, 8, 8)


def test_a_batch_is_photos_first_then_class_pictures() -> None:
    draw = draws()[0]
    assert draw.latents.shape == draw.noise.shape == (4, 4, 2, 2)
    assert draw.num_photos == 2
    assert (draw.latents[:2] < 100).all()
    assert (draw.latents[2:] >= 100).all()


def test_without_class_pictures_a_batch_is_photos_alone() -> None:
    draw = draws(num_others=0)[0]
    assert len(draw.latents) == draw.num_photos == 2


@settings(max_examples=30, deadline=None)
@given(
    num_photos=st.integers(1, 7),
    num_others=st.integers(0, 7),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_every_photo_is_seen_equally_often(
    num_photos: int, num_others: int, batch_size: int, seed: int
) -> None:
    drawn = draws(num_photos, num_others, batch_size, seed)
    seen = [float(latents.mean()) for number in range(num_photos) for latents in drawn[number].latents]
    counts = [seen.count(float(photo)) for photo in range(num_photos)]
    assert counts == [batch_size] * num_photos


@pytest.mark.parametrize("number", [0, 7, 1000])
def test_a_draw_depends_on_its_number_alone(number: int) -> None:
    first, again, other = draws()[number], draws()[number], draws()[number + 1]
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.latents, again.latents)
    assert torch.equal(first.timesteps, again.timesteps)
    assert not torch.equal(first.noise, other.noise)


def test_timesteps_of_a_batch_are_spread_over_all_of_them() -> None:
    draw = draws(batch_size=4, num_others=0)[3]
    assert [int(timestep) // 250 for timestep in draw.timesteps] == [0, 1, 2, 3]
