from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from core.errors import InvalidRequest
from deployments.pipeline.perception.attributes import ZeroShot, softmax
from deployments.pipeline.perception.network import ClipSeg
from deployments.pipeline.perception.views import whole_view
from tests.deployments.pipeline.perception.pictures import ColourNetwork, discs
from tests.tiny_perception import FACTS

QUESTIONS = {"ground": ("grey", "green"), "disc": ("red", "blue", "green")}


async def test_each_question_is_answered_by_its_own_phrases() -> None:
    network = ColourNetwork()
    picture = discs((64, 64), ("red", 32, 32, 20))
    (answers,) = await ZeroShot(network).describe(whole_view(picture, network.side).pixels, QUESTIONS)
    assert {question: tuple(told) for question, told in answers.items()} == QUESTIONS
    for told in answers.values():
        assert sum(told.values()) == pytest.approx(1)
    assert answers["disc"]["red"] > 0.9
    assert answers["ground"]["grey"] > 0.9


async def test_every_view_is_described() -> None:
    network = ColourNetwork()
    views = np.concatenate(
        [whole_view(discs((32, 32), ground=ground), network.side).pixels for ground in ("red", "blue")]
    )
    first, second = await ZeroShot(network).describe(views, {"colour": ("red", "blue")})
    assert first["colour"]["red"] > 0.9
    assert second["colour"]["blue"] > 0.9


async def test_probabilities_of_a_real_network_are_clips(tokenizer: Any, clipseg: Any) -> None:
    network = ClipSeg(tokenizer, clipseg, FACTS)
    views = whole_view(discs((32, 32), ("red", 16, 16, 9)), network.side).pixels
    (answers,) = await ZeroShot(network).describe(views, {"animal": ("cat", "dog", "red man")})
    (logits,) = await network.logits(views, ("cat", "dog", "red man"))
    assert list(answers["animal"].values()) == pytest.approx(list(softmax(logits)), abs=1e-6)
    network.close()


@pytest.mark.parametrize("questions", [{}, {"hair": ()}])
async def test_questions_need_phrases(questions: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await ZeroShot(ColourNetwork()).describe(np.zeros((1, 32, 32, 3), np.uint8), questions)
    assert caught.value.field == "questions"


def test_softmax_takes_large_numbers() -> None:
    values = softmax(np.array([1_000.0, 1_000.0 + math.log(3)], np.float32))
    assert values == pytest.approx([0.25, 0.75], rel=1e-3)
