"""Adapters in the text encoder: each prompt as if its own were merged, whatever is encoded beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from compel import Compel
from diffusers import StableDiffusionPipeline

from core.errors import InvalidRequest, MissingPart, NotFound
from core.settings import PipelineSettings
from core.specs import AdapterUse, Task, TextToImageSpec
from core.types import SamplerName
from deployments.engine.lora import LoraFactors
from deployments.pipeline.adapter_cache import AdapterCache
from deployments.pipeline.parts import PipelineParts, load_parts
from deployments.pipeline.powerpaint.conditioning import conditioning_of
from deployments.pipeline.powerpaint.prompts import TaskPrompts
from deployments.pipeline.prompts import PromptEncoder
from deployments.pipeline.text import Adaptation, Prompt
from store.blobs import Blobs
from tests.adapter_files import merge, put, random_layers
from weights import registry
from weights.adapters import AdapterWeights, text_encoder_factors

NAMES = tuple("abcdefghijkl")
LONG = "red hair, blue cat, portrait of a man, " * 8
Stack = tuple[tuple[str, float], ...]


@pytest.fixture(scope="module")
def adapters(tiny_model_id: str) -> dict[str, AdapterWeights]:
    network = registry.load_text(tiny_model_id)[1]

    def of(path: str) -> bool:
        return "encoder.layers" in path

    layers = {name: random_layers(network, seed, 0.1, of) for seed, name in enumerate(NAMES)}
    return {name: AdapterWeights({}, own) for name, own in layers.items()}


@pytest.fixture(scope="module")
def factors(adapters: Mapping[str, AdapterWeights]) -> dict[str, LoraFactors]:
    return {name: text_encoder_factors(weights) for name, weights in adapters.items()}


@pytest.fixture
def encoder(tiny_model_id: str) -> PromptEncoder:
    return PromptEncoder(*registry.load_text(tiny_model_id), cache_entries=64)


@pytest.fixture
def parts(
    tiny_model_id: str, adapters: Mapping[str, AdapterWeights], tmp_path: Path
) -> Iterator[PipelineParts]:
    blobs = Blobs(f"file://{tmp_path}")
    for name in NAMES[:2]:
        put(blobs, name, adapters[name])
    cache = AdapterCache(blobs, 10_000_000, text_encoder_factors)
    loaded = load_parts(tiny_model_id, PipelineSettings(precision="float32"), "cpu", cache)
    yield loaded
    loaded.close()


@contextmanager
def merged(family: Path, factors: Mapping[str, LoraFactors], stack: Stack) -> Iterator[Any]:
    """diffusers' pipeline with the adapters of ``stack`` added to the weights of its text encoder."""
    pipeline = StableDiffusionPipeline.from_pretrained(family, safety_checker=None)
    for name, weight in stack:
        merge(pipeline.text_encoder, factors[name], weight)
    with torch.no_grad():
        yield pipeline


def spec(*uses: tuple[str, float], **others: Any) -> TextToImageSpec:
    values: dict[str, Any] = {
        "request_id": "r", "prompt": "red hair", "negative_prompt": "blue dog", "num_inference_steps": 2,
        "guidance_scale": 5.0, "seed": 0, "num_images": 1, "sampler": SamplerName.EULER,
        "width": 32, "height": 32, "adapters": tuple(
            AdapterUse(adapter_id=name, weight=weight, sha256="", has_text_encoder=True)
            for name, weight in uses
        ),
    }  # fmt: skip
    return TextToImageSpec(**{**values, **others})


def close(one: torch.Tensor | None, other: torch.Tensor) -> None:
    assert one is not None
    assert (one - other).abs().max() <= 1e-5


STACKS: list[Stack] = [
    (("a", 1.0),),
    (("a", 0.6), ("b", -0.4)),
    (("a", 0.3), ("b", 0.5), ("c", 1.0), ("d", 0.2)),
]


@pytest.mark.parametrize("stack", STACKS)
async def test_adapters_act_on_prompt_and_negative_as_in_diffusers(
    encoder: PromptEncoder, tiny_family: Path, factors: Mapping[str, LoraFactors], stack: Stack
) -> None:
    adapted = Adaptation(stack, factors)
    positive, negative = await encoder.encode_pair("red hair man", "blue dog", adapted=adapted)
    with merged(tiny_family, factors, stack) as pipeline:
        wanted, unwanted = pipeline.encode_prompt("red hair man", "cpu", 1, True, "blue dog")
    close(positive, wanted[0])
    close(negative, unwanted[0])
    plain, _ = await encoder.encode_pair("red hair man", None)
    assert (positive - plain).abs().max() > 0.01


async def test_clip_skip_weights_and_long_prompts_go_with_adapters(
    encoder: PromptEncoder, tiny_family: Path, factors: Mapping[str, LoraFactors]
) -> None:
    adapted = Adaptation((("a", 0.8), ("b", 0.5)), factors)
    skipped, _ = await encoder.encode_pair("red hair", None, 1, adapted)
    weighted, _ = await encoder.encode_pair("a (red hair)1.4 (man)0.6", None, adapted=adapted)
    long, padded = await encoder.encode_pair(LONG, "dog", adapted=adapted)
    with merged(tiny_family, factors, adapted.stack) as pipeline:
        text = pipeline.text_encoder
        tokens = pipeline.tokenizer("red hair", padding="max_length", return_tensors="pt").input_ids
        hidden = text(tokens, output_hidden_states=True).hidden_states[-2]
        close(skipped, getattr(text, "text_model", text).final_layer_norm(hidden)[0])
        compel = Compel(pipeline.tokenizer, text, truncate_long_prompts=False)
        close(weighted, compel("a (red hair)1.4 (man)0.6")[0])
        chunked = PromptEncoder(pipeline.tokenizer, text, cache_entries=0)
        close(long, chunked.encode_batch([Prompt(LONG)])[0])
        dog, empty = (pipeline.encode_prompt(words, "cpu", 1, False)[0][0] for words in ("dog", ""))
    assert padded is not None
    close(padded[:77], dog)
    close(padded[77:154], empty)


def assorted() -> Sequence[Prompt]:
    stacks: list[Stack] = [(), *STACKS, *(((name, 0.5),) for name in NAMES), ()]
    prompts = [Prompt("red hair", 0, stack) for stack in stacks]
    return [
        *prompts,
        Prompt("cat", 1, STACKS[1]),
        Prompt("(cat)1.3", 0, STACKS[0]),
        Prompt(LONG, 0, STACKS[2]),
    ]


def test_a_batch_of_many_adapters_equals_each_prompt_alone(
    encoder: PromptEncoder, tiny_model_id: str, factors: Mapping[str, LoraFactors]
) -> None:
    """More adapters than there are slots, stacked, alone and absent."""
    together = encoder.encode_batch(assorted(), factors)
    for prompt, embeddings in zip(assorted(), together, strict=True):
        lonely = PromptEncoder(*registry.load_text(tiny_model_id), cache_entries=0)
        close(embeddings, lonely.encode_batch([prompt], factors)[0])


async def test_prompts_of_other_members_share_a_forward(
    encoder: PromptEncoder, factors: Mapping[str, LoraFactors]
) -> None:
    sizes: list[int] = []
    encoder._reader.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    wanted = [
        Prompt(words, 0, ((name, 1.0),)) for words, name in zip(("red", "cat", "dog"), NAMES, strict=False)
    ]
    alone = [encoder.encode_batch([prompt], factors)[0] for prompt in wanted]
    sizes.clear()
    first = asyncio.create_task(encoder.encode(Prompt("man")))
    rest = [
        asyncio.create_task(encoder.encode(prompt, {name: factors[name]}))
        for prompt, name in zip(wanted, NAMES, strict=False)
    ]
    await first
    for embeddings, expected in zip(await asyncio.gather(*rest), alone, strict=True):
        close(embeddings, expected)
    assert sum(sizes) == 4
    assert max(sizes) > 1


async def test_the_cache_knows_adapters_and_weights(
    encoder: PromptEncoder, factors: Mapping[str, LoraFactors]
) -> None:
    stacks: list[Stack] = [(), (("a", 1.0),), (("a", 0.5),), (("b", 1.0),), (("a", 1.0), ("b", 1.0))]
    prompts = [Prompt("cat", 0, stack) for stack in stacks]
    first = [await encoder.encode(prompt, factors) for prompt in prompts]
    for index, one in enumerate(first):
        assert all((one - other).abs().max() > 1e-3 for other in first[:index])
        assert await encoder.encode(prompts[index], factors) is one


async def test_a_forgotten_adapter_leaves_nothing_behind(
    encoder: PromptEncoder, factors: Mapping[str, LoraFactors]
) -> None:
    kept, gone = Prompt("cat", 0, (("b", 1.0),)), Prompt("cat", 0, (("a", 1.0), ("b", 1.0)))
    before = await encoder.encode(kept, factors)
    await encoder.encode(gone, factors)
    encoder.forget("a")
    assert await encoder.encode(kept, factors) is before
    # Its id now means something else, and that is what acts.
    renewed = {**factors, "a": factors["c"]}
    expected = await encoder.encode(Prompt("cat", 0, (("b", 1.0), ("c", 1.0))), factors)
    close(await encoder.encode(gone, renewed), expected)


async def test_what_is_forgotten_while_it_is_encoded_is_not_remembered(
    encoder: PromptEncoder, factors: Mapping[str, LoraFactors]
) -> None:
    prompt = Prompt("cat", 0, (("a", 1.0),))
    encoding = asyncio.create_task(encoder.encode(prompt, factors))
    await asyncio.sleep(0)
    encoder.forget("a")
    late = await encoding
    assert await encoder.encode(prompt, factors) is not late


async def test_an_adapter_that_does_not_fit_fails_its_prompt_alone(
    encoder: PromptEncoder, factors: Mapping[str, LoraFactors]
) -> None:
    wrong = {**factors, "a": {"encoder.layers.0.mlp.fc1": (torch.ones(4, 5), torch.ones(5, 4))}}
    bad, good = (Prompt("cat", 0, ((name, 1.0),)) for name in "ab")
    refused, encoded = await asyncio.gather(
        encoder.encode(bad, wrong), encoder.encode(good, wrong), return_exceptions=True
    )
    assert isinstance(refused, InvalidRequest)
    assert refused.field == "adapters"
    assert isinstance(encoded, torch.Tensor)
    close(encoded, encoder.encode_batch([good], factors)[0])


async def test_parts_take_adapters_from_the_store(
    parts: PipelineParts, tiny_family: Path, factors: Mapping[str, LoraFactors]
) -> None:
    embeds = await parts.embed(spec(("b", 0.4), ("a", 0.9)))
    other = await parts.embed_words(spec(("a", 0.9), ("b", 0.4)), "red hair", "cat")
    assert torch.equal(embeds.positive, other.positive)
    with merged(tiny_family, factors, (("a", 0.9), ("b", 0.4))) as pipeline:
        wanted, unwanted = pipeline.encode_prompt("red hair", "cpu", 1, True, "blue dog")
    close(embeds.positive, wanted[0])
    close(embeds.negative, unwanted[0])


async def test_powerpaints_words_are_adapted_too(parts: PipelineParts) -> None:
    asked = spec(("a", 0.9))
    own = parts.prompts
    assert isinstance(own, PromptEncoder)
    prompts = TaskPrompts(own, own)
    embeds = await conditioning_of(parts, prompts, Task.TEXT_GUIDED, 1.0).embed(asked)
    assert embeds.positive is (await parts.embed(asked)).positive
    prompts = TaskPrompts(own)
    plain = await conditioning_of(parts, prompts, Task.OBJECT_REMOVAL, 1.0).embed(spec())
    embeds = await conditioning_of(parts, prompts, Task.OBJECT_REMOVAL, 1.0).embed(asked)
    assert (embeds.positive - plain.positive).abs().max() > 0.01


async def test_adapters_of_the_unet_alone_and_of_no_weight_change_no_prompt(parts: PipelineParts) -> None:
    plain = await parts.embed(spec())
    unet_only = AdapterUse(adapter_id="not in the store", weight=1.0, sha256="")
    for asked in (spec(adapters=(unet_only,)), spec(("a", 0.0))):
        assert (await parts.embed(asked)).positive is plain.positive


async def test_without_a_store_adapters_in_prompts_are_refused(tiny_parts: PipelineParts) -> None:
    with pytest.raises(MissingPart) as refused:
        await tiny_parts.embed(spec(("a", 1.0)))
    assert refused.value.field == "adapters"


async def test_a_missing_or_deleted_adapter_fails_its_request_alone(parts: PipelineParts) -> None:
    missing, present = await asyncio.gather(
        parts.embed(spec(("z", 1.0))), parts.embed(spec(("a", 1.0))), return_exceptions=True
    )
    assert isinstance(missing, NotFound)
    assert not isinstance(present, BaseException)
    parts.forget("a")
    assert parts.adapters is not None
    assert parts.adapters.stats().num_resident == 0
    again = await parts.embed(spec(("a", 1.0)))
    assert again.positive is not present.positive
    close(again.positive, present.positive)
