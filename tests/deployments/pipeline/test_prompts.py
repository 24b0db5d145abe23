from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from core.errors import InvalidRequest
from deployments.pipeline.prompts import PromptEncoder
from deployments.pipeline.text import MAX_CHUNKS, Prompt
from weights import registry

LONG = "red hair, blue cat, portrait of a man, " * 8


@pytest.fixture(scope="module")
def pipeline(tiny_family: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(tiny_family, safety_checker=None)


@pytest.fixture
def encoder(tiny_model_id: str) -> PromptEncoder:
    return PromptEncoder(*registry.load_text(tiny_model_id), cache_entries=8)


@pytest.mark.parametrize("prompt", ["red hair man", "", "a man (smiling), t-shirt", "cat " * 75])
async def test_a_plain_prompt_is_encoded_as_diffusers_does(
    encoder: PromptEncoder, pipeline: Any, prompt: str
) -> None:
    positive, negative = await encoder.encode_pair(prompt, "blue dog")
    with torch.no_grad():
        expected, expected_negative = pipeline.encode_prompt(prompt, "cpu", 1, True, "blue dog")
    assert negative is not None
    torch.testing.assert_close(positive, expected[0])
    torch.testing.assert_close(negative, expected_negative[0])


async def test_clip_skip_takes_an_earlier_layer_of_the_prompt_alone(
    encoder: PromptEncoder, pipeline: Any
) -> None:
    positive, negative = await encoder.encode_pair("red hair", "dog", clip_skip=1)
    text_encoder = pipeline.text_encoder
    tokens = pipeline.tokenizer("red hair", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        hidden = text_encoder(tokens, output_hidden_states=True).hidden_states[-2]
        norm = getattr(text_encoder, "text_model", text_encoder).final_layer_norm
    torch.testing.assert_close(positive, norm(hidden)[0].detach())
    _, unskipped = await encoder.encode_pair("red hair", "dog")
    assert torch.equal(negative, unskipped)  # type: ignore[arg-type]


def test_prompts_of_one_batch_do_not_touch_each_other(encoder: PromptEncoder) -> None:
    prompts = [
        Prompt("red hair"),
        Prompt("blue cat", 1),
        Prompt("(red hair)1.4 man"),
        Prompt("red hair"),
        Prompt(LONG),
    ]
    together = encoder.encode_batch(prompts)
    for prompt, embeddings in zip(prompts, together, strict=True):
        (alone,) = encoder.encode_batch([prompt])
        torch.testing.assert_close(embeddings, alone)


async def test_weights_change_the_embeddings_in_proportion(encoder: PromptEncoder) -> None:
    plain = await encoder.encode(Prompt("a red hair man"))
    slightly = await encoder.encode(Prompt("a (red hair)1.1 man"))
    strongly = await encoder.encode(Prompt("a (red hair)1.5 man"))
    less = await encoder.encode(Prompt("a (red hair)0.5 man"))
    assert (plain - less).norm() > 0
    assert 0 < (plain - slightly).norm() < (plain - strongly).norm()


async def test_weights_and_clip_skip_go_together(encoder: PromptEncoder) -> None:
    (plain,) = encoder.encode_batch([Prompt("red hair", 1)])
    weighted, _ = await encoder.encode_pair("(red hair)1.0001", None, clip_skip=1)
    torch.testing.assert_close(weighted, plain, atol=1e-3, rtol=1e-3)


async def test_a_blend_lies_between_its_prompts(encoder: PromptEncoder) -> None:
    cat, dog = encoder.encode_batch([Prompt("cat"), Prompt("dog")])
    blend = await encoder.encode(Prompt('("cat", "dog").blend(0.75, 0.25)'))
    torch.testing.assert_close(blend, 0.75 * cat + 0.25 * dog)


async def test_a_long_prompt_is_not_cut_and_its_negative_is_padded(encoder: PromptEncoder) -> None:
    positive, negative = await encoder.encode_pair(LONG, "dog")
    short, empty = encoder.encode_batch([Prompt("dog"), Prompt("")])
    assert negative is not None
    assert positive.shape == negative.shape
    assert len(positive) % 77 == 0
    assert len(positive) > 77
    torch.testing.assert_close(negative[:77], short)
    torch.testing.assert_close(negative[77:154], empty)


async def test_a_prompt_of_too_many_tokens_is_refused(encoder: PromptEncoder) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await encoder.encode_pair("x1 " * 77 * MAX_CHUNKS, "")
    assert (refused.value.field, refused.value.limit) == ("prompt", MAX_CHUNKS * 77)


@pytest.mark.parametrize("prompt", ['("cat", "dog").blend(1, -1)', "(cat)1" + "0" * 60, "()1.3"])
async def test_weights_without_a_finite_result_are_refused(encoder: PromptEncoder, prompt: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await encoder.encode_pair("cat", prompt)
    assert refused.value.field == "negative_prompt"


@pytest.mark.parametrize("clip_skip", [-1, 3])
async def test_clip_skip_is_bounded_by_the_layers(encoder: PromptEncoder, clip_skip: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await encoder.encode_pair("cat", None, clip_skip)
    assert (refused.value.field, refused.value.limit) == ("clip_skip", 2)


async def test_a_prompt_is_encoded_once(encoder: PromptEncoder) -> None:
    first = await encoder.encode(Prompt("red cat"))
    assert await encoder.encode(Prompt("red cat")) is first
