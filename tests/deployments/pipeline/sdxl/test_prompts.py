"""Prompts through both text encoders, against diffusers' ``encode_prompt`` and compel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from compel import CompelForSDXL
from diffusers import StableDiffusionXLPipeline

from core.errors import InvalidRequest
from core.settings import PipelineSettings
from deployments.pipeline.embeds import Embeds
from deployments.pipeline.parts import PipelineParts
from deployments.pipeline.prompts import PromptEncoder, Prompts
from deployments.pipeline.two_encoders import TwoPromptEncoders, load_prompts
from tests.tiny_sdxl import POOLED_WIDTH, WIDTHS, build_tiny_sdxl
from weights.errors import BrokenWeights

LONG = "red hair, blue cat, portrait of a man, " * 8


@pytest.fixture(scope="module")
def pipeline(sdxl: Path) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(sdxl, add_watermarker=False)


@pytest.fixture
def prompts(sdxl: Path) -> Prompts:
    return load_prompts(f"path:{sdxl}", PipelineSettings(embedding_cache_entries=8), "cpu")


def by_diffusers(pipeline: Any, prompt: str, negative: str | None, clip_skip: int | None = None) -> Embeds:
    with torch.no_grad():
        told = pipeline.encode_prompt(prompt, negative_prompt=negative, clip_skip=clip_skip)
    return Embeds(*(told[index][0] for index in (0, 1, 2, 3)))


def assert_equal(got: Embeds, expected: Embeds) -> None:
    for one, other in zip(got, expected, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("prompt", ["red hair man", "", "cat " * 74])
@pytest.mark.parametrize("clip_skip", [0, 1])
async def test_a_plain_prompt_is_encoded_as_diffusers_does(
    prompts: Prompts, pipeline: Any, prompt: str, clip_skip: int
) -> None:
    got = await prompts.embeds(prompt, "blue dog", clip_skip)
    assert got.positive.shape == (77, sum(WIDTHS))
    assert got.pooled is not None
    assert got.pooled.shape == (POOLED_WIDTH,)
    assert_equal(got, by_diffusers(pipeline, prompt, "blue dog", clip_skip or None))


async def test_an_empty_negative_prompt_is_zeros(prompts: Prompts, pipeline: Any) -> None:
    got = await prompts.embeds("red hair", "")
    assert_equal(got, by_diffusers(pipeline, "red hair", None))
    assert got.negative is not None
    assert not got.negative.any()
    long = await prompts.embeds(LONG, "")
    assert long.negative is not None
    assert long.negative.shape == long.positive.shape
    assert not long.negative.any()


async def test_a_model_may_read_an_empty_negative_prompt(tmp_path: Path) -> None:
    folder = build_tiny_sdxl(tmp_path, zero_empty=False)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    prompts = load_prompts(f"path:{folder}", PipelineSettings(), "cpu")
    got = await prompts.embeds("red hair", "")
    assert_equal(got, by_diffusers(pipeline, "red hair", None))
    assert got.negative is not None
    assert got.negative.any()


async def test_without_guidance_nothing_negative_is_encoded(prompts: Prompts) -> None:
    got = await prompts.embeds("red hair", None)
    assert got.negative is None
    assert got.negative_pooled is None
    assert got.pooled is not None


async def test_weights_act_in_both_encoders_as_in_compel(prompts: Prompts, pipeline: Any) -> None:
    text = "a (red hair)1.4 (man)0.6"
    got = await prompts.embeds(text, None)
    with torch.no_grad():
        expected = CompelForSDXL(pipeline)(text)
    torch.testing.assert_close(got.positive, expected.embeds[0], atol=1e-5, rtol=1e-4)
    # One token is pooled: it has the words, and no weights.
    plain = await prompts.embeds("a red hair man", None)
    torch.testing.assert_close(got.pooled, plain.pooled)


async def test_a_blend_lies_between_its_prompts(prompts: Prompts) -> None:
    cat, dog = [await prompts.embeds(word, None) for word in ("cat", "dog")]
    blend = await prompts.embeds('("cat", "dog").blend(0.75, 0.25)', None)
    torch.testing.assert_close(blend.positive, 0.75 * cat.positive + 0.25 * dog.positive)
    assert cat.pooled is not None
    assert dog.pooled is not None
    torch.testing.assert_close(blend.pooled, 0.75 * cat.pooled + 0.25 * dog.pooled)
    both = await prompts.embeds('("cat", "dog").and()', None)
    torch.testing.assert_close(both.positive, torch.cat([cat.positive, dog.positive]))
    torch.testing.assert_close(both.pooled, 0.5 * cat.pooled + 0.5 * dog.pooled)


async def test_a_long_prompt_is_not_cut_and_its_first_chunk_is_pooled(
    prompts: Prompts, pipeline: Any
) -> None:
    got = await prompts.embeds(LONG, "dog")
    assert got.negative is not None
    assert got.positive.shape == got.negative.shape
    assert len(got.positive) > 77
    cut = by_diffusers(pipeline, LONG, "dog")
    torch.testing.assert_close(got.pooled, cut.pooled)
    torch.testing.assert_close(got.negative_pooled, cut.negative_pooled)
    torch.testing.assert_close(got.negative[:77], cut.negative)


@pytest.mark.parametrize(
    ("prompt", "negative", "field"), [("()1.3", "", "prompt"), ("cat", "x1 " * 900, "negative_prompt")]
)
async def test_what_cannot_be_encoded_is_refused(
    prompts: Prompts, prompt: str, negative: str, field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await prompts.embeds(prompt, negative)
    assert refused.value.field == field


async def test_clip_skip_is_bounded_by_the_encoder_with_fewer_layers(parts: PipelineParts) -> None:
    assert isinstance(parts.prompts, TwoPromptEncoders)
    assert parts.prompts.max_clip_skip == parts.info.max_clip_skip == 1
    with pytest.raises(InvalidRequest) as refused:
        await parts.prompts.embeds("cat", None, 2)
    assert (refused.value.field, refused.value.limit) == ("clip_skip", 1)


async def test_a_prompt_is_encoded_once(prompts: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await prompts.embeds("red cat", "dog")
    monkeypatch.setattr(PromptEncoder, "_run", None)
    assert_equal(await prompts.embeds("red cat", "dog"), first)


def test_two_tokenizers_with_other_words_are_refused(tmp_path: Path) -> None:
    folder = build_tiny_sdxl(tmp_path)
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer_2")
    tokenizer.add_tokens(["moustache"])
    tokenizer.save_pretrained(folder / "tokenizer_2")
    with pytest.raises(BrokenWeights, match="same words"):
        load_prompts(f"path:{folder}", PipelineSettings(), "cpu")
