from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import InvalidRequest
from deployments.pipeline.perception.network import ClipSeg, Question, Wanted
from deployments.pipeline.perception.views import Pixels
from tests.tiny_perception import FACTS


@pytest.fixture
def network(tokenizer: Any, clipseg: Any) -> Iterator[ClipSeg]:
    made = ClipSeg(tokenizer, clipseg, FACTS, max_batch=4)
    yield made
    made.close()


def noise(num: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (num, FACTS.size, FACTS.size, 3)).astype(np.uint8)


def shown(views: Pixels) -> torch.Tensor:
    scaled = (views / 255 - np.array(FACTS.mean)) / np.array(FACTS.std)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2).float()


async def test_masks_are_those_of_the_model(network: ClipSeg, tokenizer: Any, clipseg: Any) -> None:
    views = noise(2)
    found = await network.masks(views, ("red hair", "cat", "dog"))
    tokens = tokenizer(["red hair", "cat", "dog"] * 2, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = clipseg(**tokens, pixel_values=shown(views).repeat_interleave(3, 0))
    assert found.shape == (2, 3, FACTS.size, FACTS.size)
    assert found.dtype == np.float32
    expected = output.logits.sigmoid().reshape(found.shape).numpy()
    assert np.abs(found - expected).max() < 1e-3
    assert np.ptp(found) > 0.1


async def test_pictures_may_be_larger_than_those_that_the_tower_learnt_from(
    tokenizer: Any, clipseg: Any
) -> None:
    """As with the published CLIPSeg: 352 pixels for a tower of 224."""
    large = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 3)).astype(np.uint8)
    network = ClipSeg(tokenizer, clipseg, replace(FACTS, size=48))
    found = await network.masks(large, ("cat",))
    tokens = tokenizer(["cat"], return_tensors="pt")
    with torch.no_grad():
        expected = clipseg(**tokens, pixel_values=shown(large)).logits.sigmoid().reshape(found.shape)
    assert found.shape == (1, 1, 48, 48)
    assert np.abs(found - expected.numpy()).max() < 1e-3
    network.close()


async def test_logits_are_those_of_the_model(network: ClipSeg, tokenizer: Any, clipseg: Any) -> None:
    views = noise(3)
    logits = await network.logits(views, ("red hair", "cat"))
    tokens = tokenizer(["red hair", "cat"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = clipseg.clip(**tokens, pixel_values=shown(views)).logits_per_image.numpy()
    assert np.abs(logits - expected).max() < 1e-3


async def test_questions_together_are_answered_as_alone(
    network: ClipSeg, tokenizer: Any, clipseg: Any
) -> None:
    questions = [
        Question(Wanted.MASKS, noise(1, 1), ("cat",)),
        Question(Wanted.LOGITS, noise(3, 2), ("red", "blue hair", "man")),
        Question(Wanted.MASKS, noise(3, 3), ("dog", "cat")),
        Question(Wanted.LOGITS, noise(1, 1), ("cat",)),
    ]
    together = network.answer_batch(questions)
    for question, answer in zip(questions, together, strict=True):
        (alone,) = ClipSeg(tokenizer, clipseg, FACTS).answer_batch([question])
        assert answer.shape == alone.shape
        assert np.abs(answer - alone).max() < 1e-3


async def test_a_view_is_looked_at_once_for_all_words_about_it(network: ClipSeg, clipseg: Any) -> None:
    looked: list[int] = []
    hook = clipseg.clip.vision_model.register_forward_hook(
        lambda module, arguments, output: looked.append(len(arguments[0]))
    )
    first = await network.masks(noise(2), ("cat",))
    await network.masks(noise(2), ("dog",))
    await network.logits(noise(2)[1:], ("man",))
    again = await network.masks(noise(2), ("cat",))
    hook.remove()
    assert looked == [2]
    assert np.array_equal(first, again)


async def test_a_view_that_is_no_longer_kept_is_looked_at_again(tokenizer: Any, clipseg: Any) -> None:
    forgetful = ClipSeg(tokenizer, clipseg, FACTS, cache_bytes=0)
    first = await forgetful.masks(noise(1), ("cat",))
    assert np.array_equal(first, await forgetful.masks(noise(1), ("cat",)))
    forgetful.close()


async def test_too_long_a_phrase_fails_alone(network: ClipSeg) -> None:
    long = "cat dog " * 60
    good, bad, also_good = await asyncio.gather(
        network.masks(noise(1), ("cat",)),
        network.masks(noise(1), (long,)),
        network.logits(noise(1), ("dog",)),
        return_exceptions=True,
    )
    assert isinstance(bad, InvalidRequest)
    assert bad.limit == 77
    assert isinstance(good, np.ndarray)
    assert isinstance(also_good, np.ndarray)
