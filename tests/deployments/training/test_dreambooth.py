"""Steps of training on a tiny family: what learns, what stays, and going on from a checkpoint."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler

from core.errors import GenerationFailed
from core.training import TrainingOptions
from deployments.training.dataset import Draws
from deployments.training.dreambooth import Captions, Trainee
from deployments.training.objective import Objective
from tests.tiny_family import build_tiny_family
from weights import registry

CPU = torch.device("cpu")
OPTIONS = TrainingOptions(
    num_steps=6, rank=4, alpha=8.0, learning_rate=1e-2, batch_size=2, text_encoder_learning_rate=1e-2
)
CAPTIONS = Captions(torch.tensor([[1, 5, 9, 2]]), torch.tensor([[1, 7, 2, 2]]))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"path:{build_tiny_family(tmp_path_factory.mktemp('family'))}"


def trainee(family: str, options: TrainingOptions = OPTIONS, *, scale: float = 1.0) -> Trainee:
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * scale
    scheduler = DDIMScheduler.from_config(registry.scheduler_config(family))
    draws = Draws(latents[:3], latents[3:], options.batch_size, 1000, options.seed)
    objective = Objective(scheduler.alphas_cumprod, scheduler.config.prediction_type, options.min_snr_gamma)
    _, text_encoder = registry.load_text(family)
    return Trainee(registry.load_unet(family), text_encoder, CAPTIONS, draws, objective, options, CPU)


def test_only_the_adapter_learns(family: str) -> None:
    learning = trainee(family)
    before = copy.deepcopy(learning.unet.state_dict())
    first = learning.adapters()["unet"]
    learning.advance()
    learning.advance()
    changed = {
        key for key, value in learning.unet.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed
    assert all("lora_" in key for key in changed)
    learnt = learning.adapters()["unet"]
    assert {key.rsplit(".", 2)[-2] for key in learnt} == {"lora_A", "lora_B"}
    assert any(not torch.equal(learnt[key], first[key]) for key in learnt)


def test_an_untrained_adapter_changes_nothing(family: str) -> None:
    ups = [value for key, value in trainee(family).adapters()["unet"].items() if "lora_B" in key]
    assert ups
    assert all((up == 0).all() for up in ups)


def test_the_loss_falls_on_what_is_seen_again_and_again(family: str) -> None:
    learning = trainee(family, replace(OPTIONS, num_steps=60, rank=8))
    losses = [learning.advance() for _ in range(60)]
    assert sum(losses[-15:]) < sum(losses[:15])


@pytest.mark.parametrize("train_text_encoder", [False, True])
@pytest.mark.parametrize("gradient_accumulation", [1, 2])
def test_a_training_cut_in_two_makes_the_adapter_of_one_piece(
    family: str, train_text_encoder: bool, gradient_accumulation: int
) -> None:
    options = replace(
        OPTIONS, train_text_encoder=train_text_encoder, gradient_accumulation=gradient_accumulation
    )
    whole = trainee(family, options)
    losses = [whole.advance() for _ in range(4)]
    first = trainee(family, options)
    again = [first.advance() for _ in range(2)]
    second = trainee(family, options)
    second.resume(first.state())
    assert second.step == 2
    again += [second.advance() for _ in range(2)]
    assert again == losses
    for network, weights in whole.adapters().items():
        for key, value in second.adapters()[network].items():
            assert torch.equal(value, weights[key]), key


def test_the_text_encoder_learns_only_when_asked(family: str) -> None:
    assert set(trainee(family).adapters()) == {"unet"}
    learning = trainee(family, replace(OPTIONS, train_text_encoder=True))
    learning.advance()
    ups = [value for key, value in learning.adapters()["text_encoder"].items() if "lora_B" in key]
    assert len(ups) == 3 * 4
    assert all((up != 0).any() for up in ups)


def test_another_seed_makes_another_adapter(family: str) -> None:
    one, other = (trainee(family, replace(OPTIONS, seed=seed)) for seed in (0, 1))
    key = next(iter(one.adapters()["unet"]))
    assert not torch.equal(one.adapters()["unet"][key], other.adapters()["unet"][key])


def test_a_diverging_training_is_stopped(family: str) -> None:
    with pytest.raises(GenerationFailed, match="diverged"):
        trainee(family, scale=float("inf")).advance()
