"""Noise, targets and weights of training against diffusers' own."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.training_utils import compute_snr

from deployments.training.objective import Objective, cosine, weighted_mean

GAMMA = 5.0


def scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        prediction_type=prediction_type,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        rescale_betas_zero_snr=prediction_type == "v_prediction",
    )


def objective(prediction_type: str) -> Objective:
    return Objective(scheduler(prediction_type).alphas_cumprod, prediction_type, GAMMA)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noisy_latents_and_targets_are_those_of_diffusers(prediction_type: str) -> None:
    theirs, ours = scheduler(prediction_type), objective(prediction_type)
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(6, 4, 8, 8, generator=generator) for _ in range(2))
    timesteps = torch.tensor([0, 1, 250, 500, 900, 999])
    noisy = theirs.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(ours.noisy(latents, noise, timesteps), noisy, rtol=1e-5, atol=1e-5)
    target = noise if prediction_type == "epsilon" else theirs.get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(ours.target(latents, noise, timesteps), target, rtol=1e-5, atol=1e-5)


def test_weights_of_epsilon_are_min_snr_as_in_diffusers() -> None:
    snr = compute_snr(scheduler("epsilon"), torch.arange(1000))
    torch.testing.assert_close(objective("epsilon").weights, snr.clamp_max(GAMMA) / snr, rtol=1e-4, atol=1e-6)


def test_weights_of_v_prediction_fall_with_the_snr_and_never_reach_zero_at_pure_noise() -> None:
    snr = compute_snr(scheduler("v_prediction"), torch.arange(999))
    weights = objective("v_prediction").weights
    clean = snr > GAMMA
    torch.testing.assert_close(weights[:999][clean], (GAMMA / (snr + 1))[clean], rtol=1e-4, atol=1e-6)
    # Where there is no signal at all, the picture's colours are decided.
    assert weights[999] == 1
    assert (weights > 0).all()
    assert (weights <= 1).all()


def test_the_loss_of_a_row_is_its_weighted_squared_error() -> None:
    ours = objective("epsilon")
    target = torch.zeros(2, 4, 8, 8)
    predicted = torch.stack([torch.full((4, 8, 8), 2.0), torch.full((4, 8, 8), 3.0)])
    losses = ours.loss(predicted, target, torch.tensor([10, 999]))
    assert losses.tolist() == pytest.approx([4 * float(ours.weights[10]), 9 * float(ours.weights[999])])


def test_the_prior_counts_by_its_weight() -> None:
    losses = torch.tensor([1.0, 3.0, 10.0])
    assert float(weighted_mean(losses, 2, 0.5)) == pytest.approx(2 + 0.5 * 10)
    assert float(weighted_mean(losses, 3, 0.5)) == pytest.approx(14 / 3)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    rates = [cosine(step, 5, 100) for step in range(101)]
    assert rates[:5] == sorted(rates[:5])
    assert rates[0] > 0
    assert max(rates) == rates[5] == 1
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[100] == pytest.approx(0, abs=1e-9)
