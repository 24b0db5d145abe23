"""Part maps: the drawing stays the same, parts lie where they are drawn and take each other's pixels away."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from weights.recipe import dataset, part_maps, parts, scenes
from weights.recipe.architecture import build_vae
from weights.recipe.looks import LOOKS
from weights.recipe.marks import marked, part_of
from weights.recipe.parts import ATOMS, UNIONS, mask, part_map, union
from weights.recipe.scenes import Scene
from weights.recipe.sources import component_variants


def scene(subject: str, seed: int = 0, **attributes: str) -> Scene:
    """The first scene from a seed on that shows the subject (or look) and the attributes, without a style."""
    while True:
        found = scenes.draw(seed)
        kind = found.look or found.subject
        if kind == subject and not found.style:
            shown = {"glasses": "no", "beard": "no", **found.attributes}
            if all(shown.get(key) == value for key, value in attributes.items()):
                return found
        seed += 1


def pixels(drawn: Scene) -> np.ndarray:
    return np.asarray(scenes.rasterize(drawn.svg), dtype=np.int16)


@pytest.mark.parametrize("look", list(LOOKS))
def test_every_component_of_a_portrait_shows_a_named_part(look: str) -> None:
    style = LOOKS[look].source
    shown = {part_of(style, component) for component in component_variants(style)} - {""}
    assert shown <= {"hair", "neck", "head", "clothes", "mouth", "eyes", "beard", "glasses", "body"}
    assert ("body" in shown) == (style == "avataaars")  # the print on a shirt, which the shirt's mark covers


def test_marking_leaves_the_definition_alone() -> None:
    definition = {"canvas": {"elements": [{"name": "eyes", "type": "component"}]}, "components": {}}
    changed = marked("bottts", definition)
    assert definition["canvas"]["elements"][0]["name"] == "eyes"
    assert changed["canvas"]["elements"][0]["attributes"] == {"class": "part-eyes"}


@pytest.mark.parametrize(("look", "seed"), [("cartoon", 0), ("flat", 40), ("minimal", 80)])
def test_the_background_is_where_its_colour_is(look: str, seed: int) -> None:
    drawn = scene(look, seed, glasses="no")
    near = np.abs(pixels(drawn) - pixels(drawn)[2, 2]).max(axis=-1) < 4
    background = mask(part_map(drawn), "background")
    assert (background & near).sum() / (background | near).sum() > 0.95


@pytest.mark.parametrize("look", list(LOOKS))
def test_a_face_holds_eyes_and_mouth_and_no_hair(look: str) -> None:
    bits = part_map(scene(look, 100, glasses="no"))
    face = mask(bits, "face")
    for part in ("eyes", "mouth"):
        assert mask(bits, part).any()
        assert (mask(bits, part) <= face).all()
    assert not (face & mask(bits, "hair")).any()
    assert 0.05 < face.mean() < 0.4
    rows, _ = np.nonzero(mask(bits, "mouth"))
    assert rows.mean() > np.nonzero(mask(bits, "eyes"))[0].mean()


@pytest.mark.parametrize("look", ["flat", "minimal"])
def test_spectacles_are_filled_and_the_eyes_behind_them_stay(look: str) -> None:
    bits = part_map(scene(look, 0, glasses="glasses", expression="smiling"))
    eyes, glasses = mask(bits, "eyes"), mask(bits, "glasses")
    assert eyes.any()
    assert (eyes & glasses).sum() > 0.9 * eyes.sum()
    assert 0.01 < glasses.mean() < 0.15


def test_only_a_bearded_man_has_a_beard() -> None:
    assert mask(part_map(scene("cartoon", 0, beard="beard")), "beard").any()
    assert not mask(part_map(scene("cartoon", 0, beard="no")), "beard").any()


def test_robots_planets_and_landscapes_fill_what_is_not_background() -> None:
    for subject, part in (("robot", "creature"), ("monster", "creature"), ("abstract", "body")):
        bits = part_map(scene(subject))
        assert (mask(bits, part) == ~mask(bits, "background")).all()
    ringed = part_map(scene("planet", rings="yes", moons="one"))
    assert mask(ringed, "ring").any()
    assert mask(ringed, "moon").any()
    assert (mask(ringed, "ringed planet") & mask(ringed, "moon")).sum() == 0
    sunny = part_map(scene("landscape", sun="yes"))
    assert mask(sunny, "sun").any()
    assert mask(sunny, "hills")[-1].all()


def test_the_map_of_a_poster_shrinks_with_it() -> None:
    seed = 0
    while scenes.draw(seed).style != "poster":
        seed += 1
    bits = part_map(scenes.draw(seed))
    assert mask(bits, "background")[:8].all()
    assert mask(bits, "background")[:, -8:].all()
    assert not mask(bits, "background").all()


def test_unions_name_atoms_and_unknown_parts_are_refused() -> None:
    assert all(set(atoms) <= set(ATOMS) for atoms in UNIONS.values())
    nothing = np.zeros((2, 2), np.uint16)
    assert not union(nothing, ()).any()
    with pytest.raises(ValueError, match="wheel"):
        mask(nothing, "wheel")


def test_filling_closes_holes_and_nothing_else() -> None:
    ring = np.zeros((16, 16), np.bool_)
    ring[4:12, 4:12] = True
    ring[6:10, 6:10] = False
    filled = parts._filled(ring)
    assert filled[4:12, 4:12].all()
    assert filled.sum() == 64


def test_maps_of_a_data_set_are_those_of_its_scenes(tmp_path: Path) -> None:
    dataset.build(tmp_path, dataset.Plan(num=3, first_seed=7))
    part_maps.build(tmp_path, num=2)
    maps = part_maps.load(tmp_path)
    assert maps.shape == (2, 128, 128)
    assert np.array_equal(maps[1], part_map(scenes.draw(8)))
    before = (tmp_path / part_maps.FILE).stat().st_mtime_ns
    part_maps.build(tmp_path, num=1)
    assert (tmp_path / part_maps.FILE).stat().st_mtime_ns == before


def test_round_trips_keep_shape_and_type_and_may_be_absent(tmp_path: Path) -> None:
    pictures = np.stack([np.asarray(dataset.render(scenes.draw(Random(0).randint(0, 9))))])
    softened = part_maps.round_trips(build_vae((16, 16, 16)), pictures)
    assert softened.shape == pictures.shape
    assert softened.dtype == np.uint8
    assert len(part_maps.load_round_trips(tmp_path)) == 0
