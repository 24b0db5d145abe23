"""Which requests share a pipeline call."""

from __future__ import annotations

from benchmarks.baselines.asking import Asking, grouped

TEXT = Asking(pipeline="text", prompt="a robot", num_inference_steps=20, guidance_scale=5.0, seed=1)


def other(**changes: object) -> Asking:
    return TEXT.model_copy(update=changes)


def test_words_seeds_and_pictures_may_differ_within_a_call() -> None:
    again = other(prompt="a monster", seed=2)
    assert grouped([(TEXT, 1), (again, 2)]) == [[(TEXT, 1), (again, 2)]]


def test_every_setting_makes_a_call_of_its_own() -> None:
    changes: list[dict[str, object]] = [
        {"pipeline": "image"},
        {"num_inference_steps": 8},
        {"guidance_scale": 7.5},
        {"strength": 0.8},
        {"adapter": "adapter-01"},
    ]
    asked = [TEXT, *(other(**each) for each in changes)]
    assert [len(group) for group in grouped([(each, None) for each in asked])] == [1] * 6


def test_who_came_first_is_called_first() -> None:
    short = other(num_inference_steps=8)
    groups = grouped([(short, "a"), (TEXT, "b"), (short, "c"), (TEXT, "d")])
    assert [[name for _, name in group] for group in groups] == [["a", "c"], ["b", "d"]]
