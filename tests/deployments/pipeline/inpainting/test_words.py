"""What the model is told, by mode, mask and what is known of the picture."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.specs import InpaintMode
from deployments.pipeline.captions import Description
from deployments.pipeline.inpainting.words import with_what_stays, words_for
from tests.deployments.pipeline.inpainting.pictures import SPEC

WOMAN = Description(
    "a woman",
    {
        "look": "cartoon portrait",
        "skin": "tan skin",
        "hair": "bob",
        "hair_color": "black hair",
        "beard": "",
        "glasses": "glasses",
        "clothes": "teal clothes",
        "background": "white background",
    },
    (
        "{look} of {subject}",
        "{skin}",
        "{hair}",
        "{hair_color}",
        "{beard}",
        "{glasses}",
        "{clothes}",
        "{background}",
    ),
)
BARE = replace(SPEC, mask=None, negative_prompt="")


def prompt(words: str, mask_prompt: str | None = None, mode: InpaintMode = InpaintMode.REPLACE) -> str:
    spec = replace(BARE, prompt=words, mask_prompt=mask_prompt, mode=mode)
    return words_for(spec, WOMAN, "mini").prompt


@pytest.mark.parametrize(
    ("words", "mask_prompt", "expected"),
    [
        # The cut stays, since only the colour is asked for.
        (
            "pink hair",
            "hair",
            "cartoon portrait of a woman, tan skin, bob, glasses, teal clothes, white background, pink hair",
        ),
        (
            "curly afro",
            "hair",
            "cartoon portrait of a woman, tan skin, black hair, glasses, teal clothes, white background, "
            "curly afro",
        ),
        # Nothing under the mask is left when something else is asked for.
        (
            "a top hat",
            "hair",
            "cartoon portrait of a woman, tan skin, glasses, teal clothes, white background, a top hat",
        ),
        (
            "red t-shirt",
            None,
            "cartoon portrait of a woman, tan skin, bob, black hair, glasses, white background, red t-shirt",
        ),
        ("portrait of a robot", "hair", "portrait of a robot"),
        ('("pink hair", "blue hair").blend(1, 1)', "hair", '("pink hair", "blue hair").blend(1, 1)'),
    ],
)
def test_a_short_prompt_is_completed_by_what_stays(
    words: str, mask_prompt: str | None, expected: str
) -> None:
    assert prompt(words, mask_prompt) == expected


def test_removal_says_what_is_left_and_keeps_the_thing_out() -> None:
    spec = replace(
        BARE, prompt="", negative_prompt="blur", mask_prompt="the glasses", mode=InpaintMode.REMOVE
    )
    words = words_for(spec, WOMAN, "mini")
    assert words.prompt == (
        "cartoon portrait of a woman, tan skin, bob, black hair, teal clothes, white background, no glasses"
    )
    assert words.negative_prompt == "blur, the glasses"


def test_over_a_drawn_mask_the_prompt_of_a_removal_names_the_thing() -> None:
    spec = replace(BARE, prompt="a dog", mode=InpaintMode.REMOVE)
    assert words_for(spec, None, "sd15") == ("clean empty background", "a dog")
    spec = replace(BARE, prompt="a lawn", mask_prompt="a dog", mode=InpaintMode.REMOVE)
    assert words_for(spec, None, "sd15") == ("a lawn", "a dog")


def test_without_a_description_the_prompt_stands_alone() -> None:
    spec = replace(BARE, prompt="pink hair", negative_prompt="hat", mask_prompt="hair")
    assert words_for(spec, None, "mini") == ("pink hair", "hat")
    assert words_for(spec, None, "sd15") == ("pink hair", "hat")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        # A whole prompt gets the facts that it leaves out, and no second opening.
        ("a man, red shirt", "a man, red shirt, "),
        # A part's words follow the caption that they change.
        ("green hair", None),
    ],
)
def test_what_a_prompt_does_not_speak_of_stays(prompt: str, expected: str | None) -> None:
    whole = with_what_stays(prompt, WOMAN, "mini")
    assert WOMAN.words["skin"] in whole
    assert prompt in whole
    if expected is None:
        assert whole == words_for(replace(SPEC, prompt=prompt), WOMAN, "mini").prompt
    else:
        assert whole.startswith(expected)
        assert WOMAN.words["clothes"] not in whole
        assert "portrait of" not in whole
    assert with_what_stays(prompt, None, "mini") == prompt


RED_ROBOT = Description(
    "a robot",
    {"color": "a red", "background": "white background"},
    ("cartoon of {color} robot", "{background}"),
)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("blue robot", "blue robot, white background"),
        ("a robot, green background", "a robot, green background, cartoon of a red robot"),
    ],
)
def test_a_colour_before_the_subject_is_the_subjects(prompt: str, expected: str) -> None:
    assert with_what_stays(prompt, RED_ROBOT, "mini") == expected


def test_beyond_the_edges_goes_on_what_is_behind_the_subject() -> None:
    beyond = replace(BARE, mode=InpaintMode.OUTPAINT, prompt="")
    assert words_for(beyond, WOMAN, "mini").prompt == "plain white background"
    hills = Description("a landscape", {"hills": "green hills"}, ("landscape with {hills}",))
    assert words_for(beyond, hills, "mini").prompt == "landscape with green hills"
    assert words_for(replace(beyond, prompt="a tree"), WOMAN, "mini").prompt.endswith("a tree")
