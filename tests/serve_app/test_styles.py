"""The styles file, its loader, and how styles stack."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from core.types import SamplerName
from serve_app.styles import Style, StyleRecipe, apply, load_styles

STYLES = load_styles()


def recipe(prompt: str, **members: object) -> StyleRecipe:
    return StyleRecipe.model_validate({"prompt": prompt} | members)


def test_the_file_has_the_styles_that_people_ask_for() -> None:
    ids = {style.id for style in STYLES}
    assert len(STYLES) >= 14
    assert ids >= {
        "photographic-portrait",
        "black-and-white",
        "abstract",
        "cartoon",
        "pixel-art",
        "sketch",
        "watercolor",
        "oil-painting",
        "anime",
        "3d",
    }


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.id)
def test_every_style_suits_the_large_family(style: Style) -> None:
    large = style.families["sd15"]
    assert large.negative_prompt
    assert large.sampler is not None


def test_the_embedded_family_draws_what_it_was_taught() -> None:
    able = {style.id for style in STYLES if "mini" in style.families}
    assert len(able) >= 10
    assert not able & {"photographic-portrait", "anime", "3d"}


def test_styles_nest_in_order_and_leave_the_prompt_alone() -> None:
    styled = apply([recipe("cartoon {prompt}"), recipe("{prompt}, sepia")], "a {prompt} {0}")
    assert styled.prompt == "cartoon a {prompt} {0}, sepia"


def test_no_style_changes_nothing() -> None:
    assert apply([], "a man", "hat") == apply([recipe("{prompt}")], "a man", "hat")


def test_negative_prompts_are_joined_without_repeats() -> None:
    photo = recipe("{prompt}", negative_prompt="blurry")
    assert apply([photo, photo], "a", "hat").negative_prompt == "hat, blurry"
    assert apply([photo], "a", "  ").negative_prompt == "blurry"


def test_the_last_style_settles_each_setting() -> None:
    first = recipe("{prompt}", sampler="euler", num_inference_steps=10)
    last = recipe("{prompt}", num_inference_steps=30, guidance_scale=2.0)
    styled = apply([first, last], "a")
    assert styled.num_inference_steps == 30
    assert styled.guidance_scale == 2.0
    assert styled.sampler is SamplerName.EULER


GOOD = """
[[style]]
id = "plain"
title = "Plain"
description = "Nothing added."
families.mini.prompt = "{prompt}"
"""


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD + GOOD,
        GOOD.replace("{prompt}", "no placeholder"),
        GOOD.replace("{prompt}", "{prompt} {prompt}"),
        GOOD.replace('"plain"', '"Not An Id"'),
        GOOD.replace("title", "name"),
        GOOD + 'families.mini.sampler = "magic"',
        GOOD + "families.mini.num_inference_steps = 0",
    ],
)
def test_a_bad_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "styles.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ValidationError):
        load_styles(path)


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "styles.toml"
    path.write_text(GOOD, "utf-8")
    assert [style.id for style in load_styles(path)] == ["plain"]
