"""What the quality benchmark counts; how good the pictures are is nobody's test."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import swaps
from benchmarks.quality import parse, write_pictures
from benchmarks.swaps import Swap, figures, opposite, pixel_figures, portraits
from core.specs import Presentation, SwapScope
from weights.recipe import classifier, dataset
from weights.recipe.parts import mask, part_map
from weights.recipe.scenes import HELD_OUT_SEED, Scene


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return portraits(8)


def unchanged(scene: Scene) -> Swap:
    picture = np.asarray(dataset.render(scene))
    return Swap(scene, picture, picture, np.zeros(picture.shape[:2], bool))


def test_portraits_are_held_out_and_have_their_own_colours(scenes: list[Scene]) -> None:
    assert len({scene.seed for scene in scenes}) == 8
    assert all(scene.seed >= HELD_OUT_SEED and scene.look and not scene.style for scene in scenes)
    assert {opposite(scene) for scene in scenes} == {Presentation.MAN, Presentation.WOMAN}
    assert all(opposite(scene) != scene.subject for scene in scenes)


def test_portraits_that_stay_as_they_are_keep_everything_and_are_no_swaps(scenes: list[Scene]) -> None:
    found = figures([unchanged(scene) for scene in scenes])
    assert found["goals"]["presentation"] == {"goal": 0.9, "reached": 0.0, "met": False}
    assert found["goals"]["skin"]["met"]
    assert found["missed"] == [scene.seed for scene in scenes]
    assert set(found["pixels"].values()) == {1.0, 0.0}
    assert found["pixels"]["background_painted_over"] == 0.0


def test_portraits_of_the_other_gender_are_swaps(scenes: list[Scene]) -> None:
    men = [scene for scene in scenes if scene.subject == "man"]
    women = [scene for scene in scenes if scene.subject == "woman"]
    done = [
        Swap(scene, unchanged(scene).before, unchanged(other).before, np.ones((128, 128), bool))
        for scene, other in islice(zip(men, women, strict=False), 3)
    ]
    assert figures(done)["goals"]["presentation"]["reached"] == 1.0


def test_refused_portraits_count_as_missed(scenes: list[Scene]) -> None:
    found = figures([unchanged(scene) for scene in scenes], num_refused=8)
    assert (found["num"], found["refused"]) == (16, 8)
    assert found["kept"]["skin"] <= 0.5


def test_pixels_are_counted_where_they_lie(scenes: list[Scene]) -> None:
    scene = scenes[0]
    before = np.asarray(dataset.render(scene))
    background = mask(part_map(scene), "background")
    after, painted = before.copy(), ~background
    after[painted] = 255 - after[painted]
    # One row of the background a little off, outside the mask, and one that became hair.
    rows = np.flatnonzero(background.all(axis=1))[:2]
    after[rows[0]] ^= 1
    painted[rows[1]] = True
    after[rows[1]] = 255 - after[rows[1]]
    found = pixel_figures([Swap(scene, before, after, painted)])
    size = background.sum()
    assert found["identical_outside_mask"] == pytest.approx(1 - 128 / (size - 128))
    assert found["identical_background"] == pytest.approx(1 - 256 / size)
    assert found["background_painted_over"] == pytest.approx(128 / size)
    assert found["identical_background_still_seen"] == pytest.approx(1 - 128 / (size - 128))


def test_the_classifier_knows_what_is_asked_of_it() -> None:
    assert set(swaps._KEPT) <= set(classifier.KEYS)


def test_the_sheet_shows_every_swap(tmp_path: Path, scenes: list[Scene]) -> None:
    write_pictures(tmp_path / "new", [unchanged(scene) for scene in scenes])
    with Image.open(tmp_path / "new" / "swaps.png") as sheet:
        assert sheet.width > 12 * 128
        assert sheet.height > 2 * 128


def test_defaults_are_the_goal_of_the_project() -> None:
    options = parse([])
    assert (options.model, options.num, options.scope) == ("mini", 100, SwapScope.PORTRAIT)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["--num", "0"], "1 or more"), (["--model", "none"], "no model none"), (["--scope", "x"], "scope")],
)
def test_refuses_bad_arguments(arguments: list[str], complaint: str, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(arguments)
    assert complaint in capsys.readouterr().err
