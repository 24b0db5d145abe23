"""Queries and phrases: true of their records, absent words truly absent, every name reachable."""

from random import Random

import pytest

from weights.recipe import queries, scenes, zero_shot
from weights.recipe.parts import ATOMS, part_map, union
from weights.recipe.queries import NAMES, NOWHERE, UNSEEN_NOWHERE
from weights.recipe.scenes import ATTRIBUTE_VALUES, Record
from weights.recipe.text import UNKNOWN


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [scenes.draw(seed) for seed in range(300)]


def test_shown_parts_have_names_and_atoms(records: list[Record]) -> None:
    seen = set()
    for record in records:
        for part, atoms in queries.shown_parts(record).items():
            assert part in NAMES
            assert set(atoms) <= set(ATOMS)
            seen.add(part)
    assert seen == set(NAMES)


def test_shown_parts_are_seen_in_the_picture() -> None:
    missing = []
    for seed in range(40):
        scene = scenes.draw(seed)
        bits = part_map(scene)
        missing += [
            part for part, atoms in queries.shown_parts(scene).items() if not union(bits, atoms).any()
        ]
    assert len(missing) <= 2, missing


def test_absent_words_name_nothing_that_is_shown(records: list[Record]) -> None:
    rng = Random(0)
    for record in records:
        shown = {name for part in queries.shown_parts(record) for name in NAMES[part]}
        for _ in range(5):
            query = queries.absent_query(record, rng)
            bare = query.text.removeprefix("the ").removeprefix("a ")
            assert query.atoms == ()
            assert bare not in shown


def test_a_bald_man_has_no_hair_and_sunglasses_leave_the_eyes_open() -> None:
    facts = {
        "hair": "bald",
        "beard": "no",
        "glasses": "sunglasses",
        "clothes": "t-shirt",
        "clothes_color": "red",
    }
    record = Record(0, "man", "flat", "", {**facts, "skin": "tan", "background": "blue", "expression": "sad"})
    shown, absent = queries.shown_parts(record), queries.absent_parts(record)
    assert "hair" not in shown
    assert "hair" in absent
    assert "eyes" not in shown
    assert "eyes" not in absent
    assert queries.present_query(record, "sunglasses").text == "sunglasses"


def test_drawn_queries_keep_the_share_of_absent_things(records: list[Record]) -> None:
    rng = Random(1)
    drawn = [queries.draw_query(record, rng, 0.25) for record in records for _ in range(5)]
    absent = sum(not query.atoms for query in drawn) / len(drawn)
    assert 0.2 < absent < 0.3
    assert {query.part for query in drawn} >= set(NAMES) - {"shapes"}


def test_varied_words_differ_and_plain_words_do_not(records: list[Record]) -> None:
    record = next(record for record in records if record.attributes.get("beard") == "moustache")
    rng = Random(2)
    assert len({queries.present_query(record, "clothes", rng).text for _ in range(40)}) > 5
    assert queries.present_query(record, "beard").text == "moustache"
    assert queries.present_query(record, "clothes") == queries.present_query(record, "clothes")


def test_words_kept_from_training_are_not_trained() -> None:
    trained = {*NOWHERE, *(name for names in NAMES.values() for name in names)}
    assert not trained & set(UNSEEN_NOWHERE)


@pytest.mark.parametrize("key", zero_shot.KEYS)
def test_every_value_has_a_phrase_of_its_own(key: str) -> None:
    rng = Random(3)
    for phrases in [
        zero_shot.phrases(key),
        *(zero_shot.phrases(key, rng) for _ in range(20)),
    ]:
        assert len(set(phrases)) == len(ATTRIBUTE_VALUES[key])


def test_zero_shot_facts_leave_out_what_cannot_be_seen(records: list[Record]) -> None:
    for record in records:
        facts = zero_shot.facts_of(record)
        if record.style in ("sketch", "neon", "sepia", "black and white"):
            assert "background" not in facts
            assert "hair_color" not in facts
        if record.look:
            assert facts["glasses"] == record.attributes.get("glasses", "no")
    indices = zero_shot.indices(records, "beard", UNKNOWN)
    assert {index for index, record in zip(indices, records, strict=True) if not record.look} == {UNKNOWN}
