from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from weights.recipe import checkpoint, dataset
from weights.recipe.architecture import build_scheduler, build_vae
from weights.recipe.norm import FastGroupNorm
from weights.recipe.optim import Optimizer, Slot, learning_rate, orthogonalize
from weights.recipe.parallel import Plan, train
from weights.recipe.text import trim_padding
from weights.recipe.tokenizer import main as train_tokenizer
from weights.recipe.train_text import TextTask
from weights.recipe.train_unet import UnetTask, draw_timesteps, row_weights, timestep_weights
from weights.recipe.train_vae import VaeTask
from weights.recipe.vae import normalise_latents


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    dataset.build(folder, dataset.Plan(num=6, first_seed=0))
    train_tokenizer(["--data", str(folder), "--out", str(folder / "tokenizer"), "--vocab-size", "800"])
    latents = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    np.save(folder / "latents.npy", latents.half().numpy())
    return folder


def plan(out: Path, steps: int, batch: int = 2, processes: int = 1) -> Plan:
    return Plan(out=out, steps=steps, batch=batch, lr=1e-3, warmup=2, processes=processes, save_every_s=1e9)


def values(folder: Path, kind: str = "value") -> dict[str, Tensor]:
    state = checkpoint.load(folder)
    assert state is not None
    return dict(state[kind])


@pytest.mark.parametrize(("rows", "columns"), [(8, 16), (8, 72), (72, 8)])
def test_orthogonalize_evens_out_singular_values(rows: int, columns: int) -> None:
    matrices = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(1))
    matrices[:, :, 0] *= 10
    singular = torch.linalg.svdvals(orthogonalize(matrices))
    assert singular.max() < 1.3
    assert singular.min() > 0.5


def test_learning_rate_warms_up_holds_and_cools_down() -> None:
    rates = [learning_rate(step, 1.0, warmup=4, cooldown_from=10, steps=14) for step in range(14)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:11] == [1.0] * 7
    assert rates[11:] == [0.75, 0.5, 0.25]


@pytest.mark.parametrize("shape", [(4,), (4, 6), (4, 3, 3, 3)])
def test_an_update_lowers_a_quadratic_loss_and_moves_the_average(shape: tuple[int, ...]) -> None:
    value = torch.ones(shape)
    slot = Slot("w", value, value.clone(), torch.zeros(shape), torch.zeros(shape), lr_scale=1.0)
    optimizer = Optimizer([slot])
    for step in range(20):
        optimizer.step({"w": slot.value.clone()}, 0.02, step)
    assert slot.value.square().sum() < slot.average.square().sum() < torch.ones(shape).square().sum()


@pytest.mark.parametrize("shape", [(2, 8, 5, 5), (3, 8, 7)])
def test_fast_group_norm_has_the_gradients_of_the_plain_one(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(shape, generator=generator).requires_grad_()
    plain, fast = nn.GroupNorm(4, 8), FastGroupNorm(4, 8)
    with torch.no_grad():
        plain.weight.copy_(torch.randn(8, generator=generator))
    fast.load_state_dict(plain.state_dict())
    target = torch.randn(shape, generator=generator)
    expected = torch.autograd.grad((plain(x) * target).sum(), [x, plain.weight, plain.bias])
    found = torch.autograd.grad((fast(x) * target).sum(), [x, fast.weight, fast.bias])
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_normalised_latents_decode_to_the_same_picture() -> None:
    torch.manual_seed(0)
    vae = build_vae((16, 16, 16)).eval()
    pictures = torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pictures).latent_dist
        decoded = vae.decode(before.mean).sample
        std = before.mean.std(dim=(0, 2, 3))
        normalise_latents(vae, before.mean.mean(dim=(0, 2, 3)), std)
        after = vae.encode(pictures).latent_dist
        assert torch.allclose(vae.decode(after.mean).sample, decoded, atol=1e-4)
    assert torch.allclose(after.mean.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3)
    assert torch.allclose(after.mean.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(after.std, before.std / std.view(1, -1, 1, 1), rtol=1e-3)


def test_timesteps_cover_the_noisy_side_and_reach_the_last() -> None:
    weights = timestep_weights(build_scheduler().alphas_cumprod)
    assert weights[-1] == 1.0
    assert weights[0] == pytest.approx(0.1)
    drawn = draw_timesteps(weights.cumsum(0), 4000, torch.Generator().manual_seed(0))
    assert drawn.max() == 999
    assert (drawn < 100).float().mean() < 0.05


@pytest.mark.parametrize(("balance", "share"), [(0.0, 0.9), (0.5, 0.75), (1.0, 0.5)])
def test_rare_subjects_are_drawn_more_often_than_they_come(balance: float, share: float) -> None:
    weights = row_weights(["man"] * 90 + ["planet"] * 10, balance)
    assert weights[:90].sum() / weights.sum() == pytest.approx(share)


def test_trimming_keeps_the_first_end_token_of_every_row() -> None:
    ids = torch.tensor([[1, 5, 2, 2, 2], [1, 5, 6, 2, 2]])
    assert trim_padding(ids, end=2).tolist() == [[1, 5, 2, 2], [1, 5, 6, 2]]


def test_a_resumed_run_equals_an_uninterrupted_one(data: Path, tmp_path: Path) -> None:
    task = VaeTask(data, whole_from=2, crop=16, blocks=(16, 16, 16))
    for name, stops in {"whole": [3], "parts": [1, 3]}.items():
        (tmp_path / name).mkdir()
        for stop in stops:
            train(task, plan(tmp_path / name, stop, batch=4))
    for kind in ("value", "average"):
        whole, parts = values(tmp_path / "whole", kind), values(tmp_path / "parts", kind)
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert len((tmp_path / "parts" / "log.jsonl").read_text().splitlines()) == 2


def test_text_and_unet_stages_train_and_hand_over(data: Path, tmp_path: Path) -> None:
    text_out, unet_out = tmp_path / "text", tmp_path / "unet"
    text_out.mkdir()
    unet_out.mkdir()
    train(TextTask(data, data / "tokenizer", width=48, layers=1), plan(text_out, 2))
    task = UnetTask(data, data, data / "tokenizer", text_out, blocks=(32, 32), width=48, text_layers=1)
    taught = values(text_out, "average")["text_encoder.final_layer_norm.weight"]
    before = dict(task.build().named_parameters())
    assert torch.equal(before["text_encoder.final_layer_norm.weight"], taught)
    train(task, plan(unet_out, 2))
    after = values(unet_out)
    unmoved = [name for name, value in before.items() if torch.equal(value, after[name])]
    assert all("to_q" in name or "to_k" in name or "position" in name for name in unmoved)


@dataclass
class Quadratic:
    """Pull two weights to 3; the samples play no part, so every number of processes must agree."""

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 5)})

    def open(self) -> None:
        """There is no data."""

    def loss(self, model: nn.Module, step: int, batch: int, generator: torch.Generator) -> Tensor:
        return torch.stack([(p - 3).square().mean() for p in model.parameters()]).sum()

    def lr_scale(self, name: str) -> float:
        return 1.0


def test_a_run_can_start_from_a_model_folder(data: Path, tmp_path: Path) -> None:
    task = UnetTask(data, data, data / "tokenizer", blocks=(32, 32), width=48, text_layers=1)
    torch.manual_seed(3)
    saved = task.build()
    for part in ("unet", "text_encoder"):
        saved.get_submodule(part).save_pretrained(tmp_path / part)  # type: ignore[operator]
    torch.manual_seed(4)
    started = replace(task, start=tmp_path).build()
    for (name, before), after in zip(saved.named_parameters(), started.parameters(), strict=True):
        assert torch.equal(before, after), name
    assert started.training


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        train(Quadratic(), plan(tmp_path / str(processes), 5, processes=processes))
    one, two = values(tmp_path / "1"), values(tmp_path / "2")
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
