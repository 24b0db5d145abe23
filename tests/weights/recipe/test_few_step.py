"""From trajectories of a teacher to an adapter file: small networks, the real stages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from weights.adapters import read_adapter
from weights.recipe import (
    checkpoint,
    dataset,
    evaluate_few_step,
    export_few_step,
    few_step_card,
    train_few_step,
    trajectories,
)
from weights.recipe.architecture import build_scheduler, build_text_encoder, build_unet
from weights.recipe.low_rank import LowRankStudent, adapter_of, merge, targets
from weights.recipe.tokenizer import main as train_tokenizer
from weights.recipe.trajectories import NUM_ANCHORS, anchor_signal, step_of, velocity_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose UNet does something, and the records that captions come from."""
    folder = tmp_path_factory.mktemp("model")
    dataset.build(folder, dataset.Plan(num=6, first_seed=0))
    train_tokenizer(["--data", str(folder), "--out", str(folder / "tokenizer"), "--vocab-size", "800"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        build_unet((32, 32), context_width=48).save_pretrained(folder / "unet")
        build_text_encoder(800, 0, 1, width=48, layers=1).save_pretrained(folder / "text_encoder")
    return folder


@pytest.fixture(scope="module")
def pairs(model: Path) -> Path:
    out = model / "pairs"
    told = ["--model", str(model), "--data", str(model), "--out", str(out), "--processes", "1"]
    trajectories.main([*told, "--num", "3", "--substeps", "2"])
    return out


@pytest.fixture(scope="module")
def run(model: Path, pairs: Path) -> Path:
    out = model / "run"
    told = ["--model", str(model), "--pairs", str(pairs), "--out", str(out), "--rank", "8", "--warmup", "2"]
    train_few_step.main([*told, "--steps", "30", "--batch", "4", "--processes", "1", "--device", "cpu"])
    return out


def unet_of(model: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(model / "unet", dtype=torch.float32).eval()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, 4, 8, 8, generator=drawn),
        torch.tensor([999, 249]),
        torch.randn(2, 77, 48, generator=drawn),
    )


def test_a_step_between_anchors_is_that_of_ddim_and_its_velocity_is_found_again() -> None:
    timesteps, signal, spread = anchor_signal()
    scheduler = DDIMScheduler.from_config(build_scheduler().config)
    scheduler.set_timesteps(NUM_ANCHORS)
    assert scheduler.timesteps.tolist() == timesteps == [999, 749, 499, 249]
    x, v = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for anchor, timestep in enumerate(timesteps):
        at = torch.tensor([anchor])
        reached = step_of(v, x, signal, spread, at)
        expected = scheduler.step(v, timestep, x).prev_sample
        torch.testing.assert_close(reached, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(velocity_of(x, reached, signal, spread, at), v, atol=1e-4, rtol=1e-4)


def test_every_trajectory_begins_with_its_own_noise_and_goes_on_where_it_was(pairs: Path) -> None:
    found = trajectories.load([pairs])
    assert found.starts.shape == found.ends.shape == (3, NUM_ANCHORS, 4, 32, 32)
    assert found.tokens.shape == (3, 77)
    for number in range(3):
        noise = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(number))
        np.testing.assert_array_equal(found.starts[number, 0], noise.half().numpy())
    np.testing.assert_array_equal(found.starts[:, 1:], found.ends[:, :-1])


def test_chunks_that_are_there_are_kept_and_none_at_all_is_an_error(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    (chunk,) = pairs.glob("pairs-*.npz")
    written = chunk.stat().st_mtime_ns
    told = ["--model", str(model), "--data", str(model), "--out", str(pairs), "--processes", "1"]
    trajectories.main([*told, "--num", "3", "--substeps", "2"])
    assert chunk.stat().st_mtime_ns == written
    with pytest.raises(FileNotFoundError, match="no pairs"):
        trajectories.load([tmp_path])


def test_a_student_begins_as_its_teacher_and_holds_nothing_but_factors(model: Path) -> None:
    teacher = unet_of(model)
    expected = teacher(*inputs()).sample
    student = LowRankStudent(teacher, 8, {})
    torch.testing.assert_close(student(*inputs()), expected)
    assert {name.rpartition("/")[2] for name, _ in student.named_parameters()} == {"down", "up"}
    assert len(list(student.parameters())) == 2 * len(list(targets(teacher)))
    student(*inputs()).square().mean().backward()
    assert all(each.grad is None for each in teacher.parameters())


def test_training_lowers_the_loss(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]


def test_the_file_does_what_the_student_does(model: Path, run: Path, tmp_path: Path) -> None:
    export_few_step.main(["--run", str(run), "--out", str(tmp_path), "--kind", "value"])
    state = checkpoint.load(run)
    assert state is not None
    student = LowRankStudent(unet_of(model), 8, {})
    for name, parameter in student.named_parameters():
        parameter.data.copy_(state["value"][name])
    file = tmp_path / export_few_step.FILE
    weights = read_adapter(file.read_bytes())
    assert (weights.rank, weights.num_steps, weights.text_encoder) == (8, 30, {})
    merged = merge(unet_of(model), file)
    torch.testing.assert_close(merged(*inputs()).sample, student(*inputs()), atol=2e-3, rtol=2e-3)


def test_on_the_students_way_the_teacher_answers_at_each_anchor(
    model: Path, run: Path, pairs: Path, tmp_path: Path
) -> None:
    export_few_step.main(["--run", str(run), "--out", str(tmp_path)])
    told = ["--model", str(model), "--data", str(model), "--out", str(tmp_path / "pairs"), "--processes", "1"]
    student = ["--student", str(tmp_path / export_few_step.FILE)]
    trajectories.main([*told, "--num", "2", "--substeps", "2", *student])
    there, before = trajectories.load([tmp_path / "pairs"]), trajectories.load([pairs])
    np.testing.assert_array_equal(there.starts[:, 0], before.starts[:2, 0])
    np.testing.assert_allclose(there.ends[:, 0], before.ends[:2, 0], atol=2e-2)
    assert np.abs(there.starts[:, 1] - there.ends[:, 0]).max() > 0


def test_guidance_points_away_from_a_weaker_model(model: Path, tmp_path: Path) -> None:
    """One step from noise, by the formula: what the weak model draws unasked, and thrice from there."""
    weak = unet_of(model)
    with torch.no_grad():
        weak.conv_out.weight.mul_(0.5)
    value = {f"unet.{name}": each.detach() for name, each in weak.named_parameters()}
    checkpoint.save(tmp_path / "weak", {"value": value, "average": {}})
    told = ["--model", str(model), "--data", str(model), "--out", str(tmp_path / "pairs"), "--processes", "1"]
    trajectories.main(
        [*told, "--num", "3", "--substeps", "1", "--guidance", "3", "--weak", str(tmp_path / "weak")]
    )
    found = trajectories.load([tmp_path / "pairs"])
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    empty = tokenizer([""], padding="max_length", return_tensors="pt")
    x, at = torch.from_numpy(found.starts[:, 0]).float(), torch.tensor(999)
    with torch.inference_mode():
        none = encoder(input_ids=empty.input_ids).last_hidden_state.expand(3, -1, -1)
        context = encoder(input_ids=torch.from_numpy(found.tokens).long()).last_hidden_state
        away, asked = weak(x, at, none).sample, unet_of(model)(x, at, context).sample
    _, signal, spread = anchor_signal()
    expected = step_of(away + 3 * (asked - away), x, signal, spread, torch.zeros(3, dtype=torch.long))
    np.testing.assert_allclose(found.ends[:, 0], expected.numpy(), atol=3e-2)


def test_figures_are_compared_where_both_ways_have_them() -> None:
    lost = evaluate_few_step.losses({"subject": 0.97, "beard": None}, {"subject": 1.0, "beard": 0.9})
    assert lost == {"subject": 0.03}
    flat = np.full((2, 8, 8, 3), 100, np.uint8)
    assert evaluate_few_step.sharpness(flat) == 0
    assert evaluate_few_step.psnr_db(flat, flat + 255 // 5)[0] == pytest.approx(20 * np.log10(5))


def test_an_adapter_of_no_steps_changes_nothing(model: Path, tmp_path: Path) -> None:
    student = LowRankStudent(unet_of(model), 4, {})
    weights = adapter_of({name: each.detach() for name, each in student.named_parameters()}, {})
    assert all(not layer.up.any() for layer in weights.unet.values())
    assert weights.rank == 4


def test_the_card_states_both_ways_and_nothing_where_nothing_was_measured(tmp_path: Path) -> None:
    assert few_step_card.section(tmp_path, {}) == ""
    report = {
        "settings": {"num": 2, "steps": 4, "guidance": 1.0, "sampler": "ddim"},
        "few_step": {"subject": {"share": 0.5}, "others_mean": 0.975},
        "ordinary": {"subject": {"share": 1.0}, "others_mean": 0.98},
        "goal": {"at_most": 0.03, "met": False},
        "psnr_db": 31.26,
        "sharpness": 0.987,
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(report))
    card = few_step_card.section(tmp_path, {"subject": "subject", "others_mean": "mean of the others"})
    assert "| subject | 50.0 % | 100.0 % |\n| mean of the others | 97.5 % | 98.0 % |" in card
    assert "3 points: not met" in card
    assert "31.3 dB" in card
    assert "$" not in card
