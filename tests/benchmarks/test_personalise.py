"""The personalisation benchmark's world and its counting."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmarks import likeness
from benchmarks.characters import IDENTITY, Character, characters
from benchmarks.likeness import Judge
from benchmarks.personalise import Outcome, parse, report_of


def shown(
    character: Character, num: int, seed: int = 0
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    files = [character.picture(wear) for wear in character.wears(num, seed)]
    return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]


@pytest.mark.parametrize("index", range(10))
def test_the_classifier_knows_every_character_by_its_renderings(index: int) -> None:
    character, judge = characters(10)[index], Judge()
    wears = character.wears(8, 0)
    pictures = shown(character, 8)
    assert likeness.mean_of(judge.identity(character, pictures)) >= 0.95
    assert likeness.mean_of(judge.prompted(wears, pictures)) >= 0.9


def test_characters_differ_and_stay_the_same() -> None:
    first, again = characters(6), characters(6)
    assert first == again
    assert len({tuple(sorted(each.attributes.items())) for each in first}) == 6
    assert {each.subject for each in first} == {"man", "woman"}


def test_new_clothes_are_none_of_the_photos() -> None:
    character = characters(1)[0]
    known = character.wears(5, 0)
    new = likeness.new_wears(character, 20, known)
    assert len(new) == 20
    assert not set(new) & set(known)


def test_a_stranger_does_not_pass_for_a_character() -> None:
    one, other = characters(2)
    assert likeness.mean_of(Judge().identity(one, shown(other, 4))) < 0.7


def test_attributes_without_a_value_do_not_count() -> None:
    bald = replace(characters(1)[0], attributes={"subject": "man"})
    assert set(Judge().identity(bald, shown(bald, 1))) == {"subject"} <= set(IDENTITY)


def test_skin_is_measured_where_the_photo_shows_it() -> None:
    character = characters(1)[0]
    photo = shown(character, 1)[0]
    assert likeness.skin_distance(character, photo, photo) <= 1
    darker = np.clip(photo.astype(int) - 30, 0, 255).astype(np.uint8)
    assert likeness.skin_distance(character, photo, darker) == pytest.approx(30, abs=2)


def test_the_report_says_which_goals_were_met() -> None:
    shares = {
        name: {"subject": share}
        for name, share in (
            ("identity", 0.9),
            ("identity_without", 0.4),
            ("prompt", 0.7),
            ("others", 0.93),
            ("others_without", 0.99),
            ("swapped", 0.8),
        )
    }
    skin = {"swapped": 4.0}
    report = report_of([Outcome(shares, {"training": seconds}, skin) for seconds in (10.0, 30.0)])
    assert report["goals_met"] == {"identity": True, "prompt": False, "others_unharmed": False}
    assert report["training_s"] == {"mean": 20.0, "most": 30.0, "stages": {"training": 20.0}}


def test_the_command_line_refuses_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--num", "0"])
    assert "at least one character" in capsys.readouterr().err
