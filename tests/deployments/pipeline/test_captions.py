from __future__ import annotations

from collections.abc import Mapping

from deployments.pipeline.captions import describe_picture
from tests.fakes import FakePerception

ANSWERS: Mapping[str, dict[str, float]] = {
    "subject": {"a man": 0.1, "a woman": 0.8, "a robot": 0.1},
    "look": {"a flat portrait": 0.9, "a cartoon portrait": 0.1},
    "skin": {"tan skin": 1.0},
    "hair": {"a bob": 1.0},
    "hair_color": {"red hair": 1.0},
    "beard": {"no beard": 0.7, "a beard": 0.3},
    "glasses": {"sunglasses": 1.0},
    "clothes": {"blue clothes": 1.0},
    "background": {"a green background": 1.0},
}


async def test_a_caption_says_what_was_found_in_the_familys_words() -> None:
    shown = await describe_picture(FakePerception(answers=ANSWERS).describe, b"", "mini")
    assert shown is not None
    assert shown.caption == (
        "flat portrait of a woman, tan skin, bob, red hair, sunglasses, blue clothes, green background"
    )
    assert shown.caption_with({"subject": "a man", "glasses": ""}).startswith("flat portrait of a man, tan")
    assert shown.beyond({"hair_color", "background"}) == "tan skin, bob, sunglasses, blue clothes"


async def test_each_kind_of_picture_has_its_own_questions() -> None:
    perception = FakePerception(answers={"subject": {"a planet": 1.0}, "color": {"a red planet": 1.0}})
    shown = await describe_picture(perception.describe, b"", "mini")
    assert shown is not None
    assert shown.caption.startswith("red planet")
    assert set(shown.words) == {"color", "rings", "background"}


async def test_families_without_questions_are_not_asked() -> None:
    perception = FakePerception()
    assert await describe_picture(perception.describe, b"", "sd15") is None
    assert await describe_picture(None, b"", "mini") is None
    assert perception.asked == []
