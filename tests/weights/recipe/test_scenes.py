"""Scenes: the same for the same seed, decent, decided in every part, and true at the pixel level."""

import json
from collections import Counter
from importlib.resources import files
from itertools import combinations
from random import Random

import numpy as np
import pytest

from weights.recipe import palette, scenes, subjects
from weights.recipe.looks import LOOKS
from weights.recipe.portraits import BALD, draw_portrait
from weights.recipe.scenes import ATTRIBUTE_VALUES, Scene
from weights.recipe.sources import SOURCES, Drawing, component_variants

# Placed by the seed alone; no caption speaks of them.
_FREE = {"hill1", "hill2", "hill3", "hill4", "star", "clothesGraphic", "texture", "nose"}
_FORBIDDEN = {
    "vomit", "pacifier", "eyepatch", "skull", "skullOutline", "cry", "xDizzy", "dizzy", "hearts", "resist",
    "graphicShirt", "mask", "gun", "weapon",
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    return [scenes.draw(seed) for seed in range(400)]


def _drawings() -> list[Drawing]:
    portraits = [
        draw_portrait(gender, look, Random(seed))
        for look in LOOKS
        for gender in ("man", "woman")
        for seed in range(150)
    ]
    draws = (
        subjects.draw_robot,
        subjects.draw_monster,
        subjects.draw_landscape,
        subjects.draw_planet,
        subjects.draw_abstract,
    )
    return portraits + [draw(Random(seed)) for draw in draws for seed in range(150)]


def test_same_seed_gives_the_same_scene(drawn: list[Scene]) -> None:
    for scene in drawn[:20]:
        assert scenes.draw(scene.seed) == scene


def test_neighbouring_seeds_differ(drawn: list[Scene]) -> None:
    assert len({scene.svg for scene in drawn}) == len(drawn)


def test_every_fact_is_of_the_closed_set(drawn: list[Scene]) -> None:
    for scene in drawn:
        for key, value in scene.labels().items():
            assert value in ATTRIBUTE_VALUES[key]


def test_portraits_are_the_stated_share(drawn: list[Scene]) -> None:
    subject = Counter(scene.subject for scene in drawn)

    assert subject["man"] + subject["woman"] == pytest.approx(0.62 * len(drawn), abs=35)
    assert set(subject) == set(ATTRIBUTE_VALUES["subject"])
    assert sum(bool(scene.style) for scene in drawn) == pytest.approx(0.14 * len(drawn), abs=25)


def test_only_men_have_beards_and_only_hair_has_a_colour(drawn: list[Scene]) -> None:
    for scene in drawn:
        assert ("beard" in scene.attributes) == (scene.subject == "man")
        if scene.look:
            assert ("hair_color" in scene.attributes) == (scene.attributes["hair"] != "bald")
        if scene.attributes.get("hair") in BALD:
            assert scene.subject == "man"


def test_men_and_women_share_no_parts_of_hair() -> None:
    for look in LOOKS.values():
        parts = {
            gender: {json.dumps(part, sort_keys=True) for ways in table.values() for part in ways}
            for gender, table in look.hair.items()
        }
        assert not parts["man"] & parts["woman"]


def test_no_degrading_part_is_ever_chosen() -> None:
    for drawing in _drawings():
        for value in drawing.options.values():
            chosen = set(value) if isinstance(value, list) else {value}
            assert not chosen & _FORBIDDEN


def test_every_visible_part_is_chosen_here_and_exists() -> None:
    for drawing in _drawings():
        for name, variants in component_variants(drawing.source).items():
            chosen = drawing.options.get(f"{name}Variant")
            hidden = drawing.options.get(f"{name}Probability") == 0
            assert hidden or chosen is not None or len(variants) == 1 or name in _FREE
            if isinstance(chosen, str):
                assert chosen in variants


def test_glasses_leave_the_expression_readable(drawn: list[Scene]) -> None:
    for look in ("flat", "minimal"):
        for seed in range(200):
            facts = draw_portrait("woman", look, Random(seed)).attributes
            if facts["glasses"] != "no":
                assert facts["expression"] != "winking"
    assert all("glasses" not in scene.attributes for scene in drawn if scene.look == "cartoon")


def test_top_corners_show_the_named_background(drawn: list[Scene]) -> None:
    plain = [scene for scene in drawn if scene.look and not scene.style]
    for scene in plain:
        pixels = np.asarray(scenes.rasterize(scene.svg))
        corner = palette.to_hex((int(pixels[2, 2, 0]), int(pixels[2, 2, 1]), int(pixels[2, 2, 2])))
        nearest = min(
            palette.BACKGROUNDS, key=lambda name: palette.distance(palette.BACKGROUNDS[name], corner)
        )
        assert nearest == scene.attributes["background"]


@pytest.mark.parametrize(("key", "table"), [("clothes_color", palette.CLOTHES), ("skin", palette.SKIN)])
def test_portraits_show_the_named_colour(drawn: list[Scene], key: str, table: dict[str, str]) -> None:
    for scene in [scene for scene in drawn if scene.look and not scene.style][:80]:
        pixels = np.asarray(scenes.rasterize(scene.svg), dtype=np.int16)
        wanted = np.array(palette.rgb(table[scene.attributes[key]]), np.int16)
        share = float((np.abs(pixels - wanted).max(axis=-1) < 30).mean())
        assert share > 0.02, scene.attributes


def test_pastel_scenes_avoid_colours_that_chalk_turns_into_others() -> None:
    pastel = [scene for scene in map(scenes.draw, range(500)) if scene.style == "pastel"]

    assert pastel
    for scene in pastel:
        assert scene.attributes["background"] not in ("black", "grey")


@pytest.mark.parametrize(
    "table", [palette.BACKGROUNDS, palette.CLOTHES, palette.BODIES, palette.HAIR, palette.SKIN]
)
def test_names_of_colours_are_far_apart(table: dict[str, str]) -> None:
    for first, second in combinations(table.values(), 2):
        assert palette.distance(first, second) > 65


def test_sources_state_the_licence_that_the_styles_carry() -> None:
    used = {drawing.source for drawing in _drawings()}

    assert used == {source.style for source in SOURCES}
    for source in SOURCES:
        style = files("dicebear_styles").joinpath(f"{source.style}.json").read_text("utf-8")
        assert json.loads(style)["meta"]["license"]["name"] == source.licence
        assert source.licence in ("CC0 1.0", "CC BY 4.0", "Free for personal and commercial use")
