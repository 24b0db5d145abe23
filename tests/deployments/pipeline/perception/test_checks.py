from __future__ import annotations

import asyncio
import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from core.settings import SafetySettings
from core.specs import Verdict
from deployments.pipeline.perception.attributes import ZeroShot
from deployments.pipeline.perception.checks import (
    EXPLICIT,
    ConceptCheck,
    PictureCheck,
    ZeroShotCheck,
    views_of,
)
from deployments.pipeline.perception.views import Pixels
from tests.deployments.pipeline.perception.pictures import ColourNetwork, discs
from weights.perception import PreprocessFacts

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FACTS_OF_CLIP = PreprocessFacts(32, MEAN, STD)


def noise(num: int) -> list[Image.Image]:
    """Pictures whose pixels are drawn around one random colour each."""
    rng = np.random.default_rng(0)
    return [
        Image.fromarray((rng.random(3) * 255 + rng.normal(0, 40, (32, 32, 3))).clip(0, 255).astype(np.uint8))
        for _ in range(num)
    ]


@pytest.fixture
def check(checker: Any) -> ConceptCheck:
    return ConceptCheck(checker, FACTS_OF_CLIP, max_batch=4)


def all_views(pictures: list[Image.Image], check: PictureCheck) -> list[Pixels]:
    return [views_of(picture, check) for picture in pictures]


def of_diffusers(checker: Any, pictures: list[Image.Image]) -> list[bool]:
    """What the checker itself says, of pictures as its image processor prepares them."""
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32, image_mean=MEAN, image_std=STD)
    inputs = processor(pictures, return_tensors="pt").pixel_values
    _, blocked = checker(clip_input=inputs, images=[np.zeros((1, 1, 3))] * len(pictures))
    return list(blocked)


def test_verdicts_are_those_of_diffusers(check: ConceptCheck, checker: Any) -> None:
    pictures = noise(40)
    expected = of_diffusers(checker, pictures)
    verdicts = check.judge_batch(all_views(pictures, check))
    assert [verdict.blocked for verdict in verdicts] == expected
    assert 5 < sum(expected) < 35
    assert {verdict.concepts for verdict in verdicts} == {(), (EXPLICIT,)}


@pytest.mark.parametrize(("special_threshold", "blocked"), [(-1.0, True), (1.0, False)])
def test_special_care_lowers_the_thresholds(checker: Any, special_threshold: float, blocked: bool) -> None:
    careful = copy.deepcopy(checker)
    (picture,) = noise(1)
    shown = (np.asarray(picture) / 255 - np.array(MEAN)) / np.array(STD)
    pixels = torch.from_numpy(shown).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        embedding = careful.visual_projection(careful.vision_model(pixels).pooler_output)
    cosines = torch.nn.functional.cosine_similarity(embedding, careful.concept_embeds)
    careful.concept_embeds_weights.data.copy_(cosines + 0.005)
    careful.special_care_embeds_weights.data.fill_(special_threshold)
    check = ConceptCheck(careful, FACTS_OF_CLIP)
    assert of_diffusers(careful, [picture]) == [blocked]
    assert check.judge_batch(all_views([picture], check)) == [
        Verdict(blocked=blocked, concepts=(EXPLICIT,) if blocked else ())
    ]


async def test_pictures_together_are_judged_as_alone(check: ConceptCheck) -> None:
    views = all_views(noise(12), check)
    together = await asyncio.gather(*map(check.verdict, views))
    assert together == [check.judge_batch([one])[0] for one in views]
    check.close()


def test_nothing_is_cropped_away(check: ConceptCheck) -> None:
    """A picture that is blocked alone is blocked at either end of a long one too."""
    pictures = noise(40)
    verdicts = check.judge_batch(all_views(pictures, check))
    bad = next(picture for picture, verdict in zip(pictures, verdicts, strict=True) if verdict.blocked)
    good = next(picture for picture, verdict in zip(pictures, verdicts, strict=True) if not verdict.blocked)
    for row in ([bad, good, good], [good, good, bad]):
        long = Image.new("RGB", (96, 32))
        for index, picture in enumerate(row):
            long.paste(picture, (32 * index, 0))
        assert check.judge_batch(all_views([long], check))[0].blocked


def zero_shot(*, threshold: float = 0.5, concepts: tuple[str, ...] = ("red", "blue")) -> ZeroShotCheck:
    settings = SafetySettings(concepts=concepts, threshold=threshold)
    return ZeroShotCheck(ZeroShot(ColourNetwork()), settings, ("grey", "green"))


async def verdict_of(check: ZeroShotCheck, picture: Image.Image) -> Verdict:
    return await check.verdict(views_of(picture, check))


async def test_a_picture_of_a_concept_is_blocked_and_others_are_not() -> None:
    check = zero_shot()
    assert await verdict_of(check, discs((32, 32))) == Verdict(blocked=False)
    assert await verdict_of(check, discs((32, 32), ground="red")) == Verdict(blocked=True, concepts=("red",))


async def test_a_concept_at_one_end_of_a_long_picture_blocks_it() -> None:
    picture = discs((128, 32), ("blue", 127, 16, 40))
    assert (await verdict_of(zero_shot(), picture)).concepts == ("blue",)


async def test_the_threshold_decides() -> None:
    half = discs((32, 32))
    half.paste((220, 20, 20), (0, 0, 15, 32))
    told = await ZeroShot(ColourNetwork()).describe(
        views_of(half, zero_shot()), {"shows": ("red", "blue", "grey", "green")}
    )
    probability = told[0]["shows"]["red"] + told[0]["shows"]["blue"]
    assert not (await verdict_of(zero_shot(threshold=probability + 0.01), half)).blocked
    blocked = await verdict_of(zero_shot(threshold=probability - 0.01), half)
    assert blocked == Verdict(blocked=True, concepts=("red",))


async def test_without_concepts_nothing_is_blocked() -> None:
    assert await verdict_of(zero_shot(concepts=()), discs((32, 32), ground="red")) == Verdict(blocked=False)
