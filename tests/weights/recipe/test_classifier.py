"""The attribute classifier: its labels, its augmentation, its training on a toy, the committed weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from weights.recipe import classifier, dataset, train_classifier
from weights.recipe.classifier import UNKNOWN, AttributeClassifier
from weights.recipe.scenes import ATTRIBUTE_VALUES, HELD_OUT_SEED, Record, draw

WOMAN = Record(1, "woman", "cartoon", "", {"hair_color": "red", "background": "blue"})
PLANET = Record(2, "planet", "", "", {"color": "red", "background": "blue", "rings": "no"})
MEASURED = ("subject", "background", "clothes_color", "hair_color", "glasses", "beard")


def test_a_portrait_without_a_word_on_beard_or_glasses_shows_none() -> None:
    assert classifier.shown(WOMAN) == {
        "subject": "woman",
        "look": "cartoon",
        "hair_color": "red",
        "background": "blue",
        "beard": "no",
        "glasses": "no",
    }


def test_a_planets_background_is_not_judged() -> None:
    assert classifier.shown(PLANET) == {"subject": "planet", "color": "red"}


def test_labels_index_the_values_and_mark_what_is_not_shown() -> None:
    labels = classifier.labels([WOMAN, PLANET])

    assert labels["subject"].tolist() == [
        ATTRIBUTE_VALUES["subject"].index("woman"),
        ATTRIBUTE_VALUES["subject"].index("planet"),
    ]
    assert labels["hair_color"].tolist() == [ATTRIBUTE_VALUES["hair_color"].index("red"), UNKNOWN]
    assert labels["clothes_color"].tolist() == [UNKNOWN, UNKNOWN]


def test_shrinking_averages_blocks() -> None:
    picture = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    picture[0, :1, :2, 0] = 255

    small = classifier.shrink(picture)

    assert small.shape == (1, 3, 64, 64)
    assert small[0, 0, 0, 0] == pytest.approx(0.0)
    assert small[0, 1].eq(-1).all()


def test_pictures_that_do_not_show_a_key_do_not_teach_it() -> None:
    torch.manual_seed(0)
    model = AttributeClassifier()
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1

    model.loss(pictures, classifier.labels([PLANET, PLANET])).backward()

    heads = {key: model.heads[key].weight.grad for key in ("color", "hair_color")}
    assert heads["color"] is not None
    assert heads["hair_color"] is None


def test_augmented_pictures_differ_from_each_other_and_repeat_with_the_seed() -> None:
    picture = classifier.shrink(torch.from_numpy(np.asarray(dataset.render(draw(3)))[None].copy()))
    twice = picture.repeat(2, 1, 1, 1)

    first = train_classifier.augment(twice, torch.Generator().manual_seed(5))
    second = train_classifier.augment(twice, torch.Generator().manual_seed(5))

    assert torch.equal(first, second)
    assert first.shape == twice.shape
    assert first.abs().max() <= 1
    assert not torch.allclose(first[0], first[1])
    # Moved and softened, yet still the same picture.
    assert (first[0] - picture[0]).abs().mean() < 0.25


def test_weights_come_back_from_their_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AttributeClassifier().eval()
    pictures = torch.rand(2, 3, 64, 64)

    classifier.save(model, tmp_path / "classifier.safetensors")
    loaded = classifier.load(tmp_path / "classifier.safetensors")

    for key, logits in loaded(pictures).items():
        torch.testing.assert_close(logits, model(pictures)[key], atol=5e-3, rtol=5e-3)


def test_the_command_trains_measures_and_resumes(tmp_path: Path) -> None:
    dataset.build(tmp_path / "train", dataset.Plan(num=24, first_seed=0))
    dataset.build(tmp_path / "held-out", dataset.Plan(num=6, first_seed=HELD_OUT_SEED))
    command = ["--data", str(tmp_path / "train"), "--held-out", str(tmp_path / "held-out")]
    command += ["--out", str(tmp_path / "out"), "--batch", "8", "--num", "16"]

    train_classifier.main([*command, "--steps", "2", "--cooldown-from", "1"])
    train_classifier.main([*command, "--steps", "3", "--cooldown-from", "2"])

    facts = json.loads((tmp_path / "out/classifier.json").read_text())
    assert facts["steps"] == 3
    assert facts["accuracy"].keys() <= set(classifier.KEYS)
    logged = (tmp_path / "out/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in logged] == [2, 3]
    assert len(classifier.load(tmp_path / "out/classifier.safetensors").heads) == len(classifier.KEYS)


def test_measuring_without_a_training_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        train_classifier.finish(tmp_path, tmp_path)


def test_the_committed_classifier_is_small_and_measured() -> None:
    assert classifier.WEIGHTS.stat().st_size < 1_500_000
    facts = json.loads(classifier.WEIGHTS.with_suffix(".json").read_text())

    assert facts["held_out_pictures"] >= 1000
    assert all(facts["accuracy"][key] >= 0.99 for key in MEASURED)


def test_the_committed_classifier_reads_renderings_it_never_saw() -> None:
    scenes = [
        scene for seed in range(HELD_OUT_SEED + 5000, HELD_OUT_SEED + 5060) if not (scene := draw(seed)).style
    ]
    pictures = torch.from_numpy(np.stack([np.asarray(dataset.render(scene)) for scene in scenes]))

    accuracy = train_classifier.accuracy(classifier.load(), pictures, list(scenes))

    assert all(accuracy[key] >= 0.9 for key in MEASURED)
