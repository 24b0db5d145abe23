"""CLIP and CLIPSeg of the recipe: transformers' own forward pass, their losses, training and figures."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from weights.recipe import (
    checkpoint,
    dataset,
    evaluate_perception,
    part_maps,
    perception_card,
    perception_sheet,
)
from weights.recipe.architecture import build_text_encoder
from weights.recipe.export_perception import mean_of, write
from weights.recipe.parallel import Plan, train
from weights.recipe.perception import Perception, build_clipseg, contrastive_loss, mask_loss
from weights.recipe.queries import Query
from weights.recipe.tokenizer import main as train_tokenizer
from weights.recipe.train_perception import PerceptionTask, Shape, start_text_tower, tokenize

SHAPE = Shape(width=64, text_layers=1, layers=2, reduce=32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    dataset.build(folder, dataset.Plan(num=5, first_seed=0))
    part_maps.build(folder, num=4)
    train_tokenizer(["--data", str(folder), "--out", str(folder / "tokenizer"), "--vocab-size", "700"])
    return folder


@pytest.fixture(scope="module")
def tokenizer(data: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(data / "tokenizer")


@pytest.fixture(scope="module")
def model(tokenizer: CLIPTokenizer) -> Perception:
    torch.manual_seed(0)
    sizes = (SHAPE.width, SHAPE.text_layers, SHAPE.layers, SHAPE.reduce)
    ids = (len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    return Perception(build_clipseg(*ids, *sizes)).eval().requires_grad_(False)


def test_training_sees_and_segments_as_transformers_does(model: Perception, tokenizer: CLIPTokenizer) -> None:
    pictures = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    ids = tokenize(["hair", "red hat", "a robot", "eyes"], tokenizer)
    pooled, activations = model.see(pictures)
    words = model.read(ids)
    logits = model.segment(activations, words)
    expected = model.clipseg(input_ids=ids, pixel_values=pictures.repeat_interleave(2, 0))
    assert torch.allclose(logits, expected.logits, atol=1e-4)
    both = model.clipseg.clip(input_ids=ids, pixel_values=pictures)
    assert torch.allclose(model.similarity(pooled, words), both.logits_per_image, atol=1e-3)


def test_untrained_logits_are_small_enough_to_learn_from(model: Perception, tokenizer: CLIPTokenizer) -> None:
    _, activations = model.see(torch.zeros(1, 3, 128, 128))
    logits = model.segment(activations, model.read(tokenize(["hair"], tokenizer)))
    assert logits.shape == (1, 128, 128)
    assert logits.abs().max() < 10


def test_the_text_tower_starts_as_the_text_encoder(model: Perception, tokenizer: CLIPTokenizer) -> None:
    torch.manual_seed(5)
    ids = (len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    encoder = build_text_encoder(*ids, SHAPE.width, SHAPE.text_layers).eval()
    start_text_tower(model, encoder)
    words = tokenize(["a tan robot", "hair"], tokenizer)
    with torch.inference_mode():
        expected = encoder(input_ids=words).pooler_output
        found = model.clipseg.clip.text_model(input_ids=words).pooler_output
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_right_mask_loses_less_than_a_wrong_one_and_less_than_none() -> None:
    masks = torch.zeros(1, 8, 8)
    masks[:, :2, :2] = 1
    right, empty, wrong = 10 * (2 * masks - 1), torch.full((1, 8, 8), -10.0), 10 * (1 - 2 * masks)
    losses = [float(mask_loss(logits, masks)) for logits in (right, empty, wrong)]
    assert losses == sorted(losses)
    assert losses[0] < 0.05
    assert float(mask_loss(empty, torch.zeros(1, 8, 8))) < 0.05


def test_the_contrastive_loss_wants_the_diagonal() -> None:
    matched, mixed = torch.eye(3) * 20, torch.eye(3).roll(1, 0) * 20
    assert contrastive_loss(matched) < 1e-3 < 10 < contrastive_loss(mixed)


def test_a_step_moves_every_layer_and_resumes(data: Path, tmp_path: Path) -> None:
    task = PerceptionTask(data, data / "tokenizer", shape=SHAPE)
    before = {name: value.clone() for name, value in task.build().named_parameters()}
    for stop in (1, 3):
        train(task, Plan(out=tmp_path, steps=stop, batch=2, lr=1e-3, warmup=1, processes=1, save_every_s=1e9))
    saved = checkpoint.load(tmp_path)
    assert saved is not None
    assert saved["step"] == 3
    still = [name for name, value in before.items() if torch.equal(value, saved["value"][name])]
    # Not every attribute is shown by five pictures, so some heads rest.
    assert all(name.startswith("heads.") for name in still), still


def test_runs_are_averaged_weight_by_weight(model: Perception) -> None:
    networks = [copy.deepcopy(model.clipseg) for _ in range(3)]
    with torch.no_grad():
        for factor, network in enumerate(networks):
            for parameter in network.parameters():
                parameter.mul_(factor)
    for own, mean in zip(model.clipseg.parameters(), mean_of(networks).parameters(), strict=True):
        torch.testing.assert_close(mean, own)


def test_the_written_folder_loads_and_is_measured(
    model: Perception, tokenizer: CLIPTokenizer, data: Path, tmp_path: Path
) -> None:
    write(model.clipseg, tmp_path / "clipseg")
    model.clipseg.float()
    assert "_name_or_path" not in (tmp_path / "clipseg" / "config.json").read_text()
    loaded = CLIPSegForImageSegmentation.from_pretrained(tmp_path / "clipseg")
    assert loaded.dtype == torch.float32
    samples = evaluate_perception.held_out_samples(3)
    figures = evaluate_perception.measure(loaded.eval(), tokenizer, samples)
    assert set(figures) == {"goals", "plain", "varied", "softened"}
    assert 0 <= figures["plain"]["mean_iou"] <= 1
    assert figures["plain"]["false_alarms"]["of"] == 9
    assert figures["plain"]["zero_shot"]["subject"]["of"] == 3
    assert json.loads(json.dumps(figures)) == figures
    assert evaluate_perception.look(loaded, tokenizer, samples[:1]).width > 300


def test_figures_count_hits_misses_and_false_alarms() -> None:
    (sample,) = evaluate_perception.held_out_samples(1)
    true = (sample.bits & 1) != 0
    asked = [[Query("background", "background", ("background",)), Query("car", "nowhere", ())]]
    perfect = evaluate_perception.mask_figures([sample], asked, [np.stack([true, np.zeros_like(true)])])
    wrong = evaluate_perception.mask_figures([sample], asked, [np.stack([~true, np.ones_like(true)])])
    assert perfect["mean_iou"] == 1.0
    assert perfect["false_alarms"]["share"] == 0.0
    assert wrong["mean_iou"] == 0.0
    assert wrong["false_alarms"]["nowhere"] == 1.0


def test_the_sheet_shows_missed_and_wrong_pixels() -> None:
    picture = np.full((4, 4, 3), 200, np.uint8)
    wanted, found = np.zeros((2, 4, 4), np.bool_)
    wanted[0], found[:, 0] = True, True
    shown = perception_sheet.shaded(picture, perception_sheet.Found("top", found, wanted))
    assert shown[0, 0].tolist() == [200, 200, 200]
    assert shown[0, 3].tolist() == [255, 40, 40]
    assert shown[3, 0].tolist() == [0, 220, 255]
    with pytest.raises(ValueError, match="row"):
        perception_sheet.sheet([])


def test_the_card_states_the_figures_and_is_empty_without_them(tmp_path: Path) -> None:
    assert perception_card.section(tmp_path) == ""
    parts = {"hair": {"mean": 0.8125, "of": 3}, "sun": {"mean": 0.5, "of": 1}}
    found = {"iou": parts, "false_alarms": {"share": 0.0125}, "zero_shot": {"skin": {"share": 0.9, "of": 10}}}
    goals = {"mean_iou": {"goal": 0.75, "reached": 0.8125, "met": True}}
    report = {"settings": {"num": 7}, "goals": goals, "plain": found, "varied": found, "softened": found}
    (tmp_path / "evaluation.json").write_text(json.dumps(report))
    text = perception_card.section(tmp_path)
    assert "| mean IoU of the eleven classes | ≥ 0.750 | 0.812 | yes |" in text
    assert text.index("| hair | 0.812 | 0.812 | 0.812 | 3 |") < text.index("| sun |")
    assert "1.2 % cover" in text
    assert "$" not in text
