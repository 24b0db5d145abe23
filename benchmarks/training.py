"""Optimizer steps a second of LoRA training, ours beside the settings of diffusers' DreamBooth example.

Runs where there is only PyTorch, diffusers, PEFT, accelerate and this tree. With ``--sd15`` a Stable
Diffusion 1.5 of full size with random weights, else the embedded model's shape. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, UNet2DConditionModel
from peft import inject_adapter_in_model
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from core.training import TrainingOptions
from deployments.training.dataset import Draws
from deployments.training.dreambooth import UNET_TARGETS, Captions, Trainee, lora_config
from deployments.training.objective import Objective
from weights.describe import read_config
from weights.registry import MANIFEST

_FOLDERS = {"sd15": MANIFEST.parent / "families" / "sd15", "mini": MANIFEST.parent / "mini"}
_NUM_PICTURES, _TOKENS, _RANK = 8, 77, 16
_WARM_UP, _ROUNDS = 2, 5

Step = Callable[[], object]


def unet_of(shape: str) -> nn.Module:
    """A UNet of that shape with random weights."""
    unet: nn.Module = UNet2DConditionModel.from_config(read_config(_FOLDERS[shape] / "unet" / "config.json"))
    return unet


def latents_of(unet: Any) -> Tensor:
    side = unet.config.sample_size
    return torch.randn(_NUM_PICTURES, unet.config.in_channels, side, side)


def ours(shape: str, batch_size: int, device: torch.device) -> Step:
    """A step of the service's training."""
    unet = unet_of(shape)
    text = CLIPTextModel(
        CLIPTextConfig.from_dict(read_config(_FOLDERS[shape] / "text_encoder" / "config.json"))
    )
    options = TrainingOptions(
        num_steps=1_000, rank=_RANK, alpha=float(_RANK), learning_rate=1e-4, batch_size=batch_size
    )
    ids = torch.ones(1, _TOKENS, dtype=torch.long)
    scheduler = DDIMScheduler()
    draws = Draws(latents_of(unet), None, batch_size, len(scheduler.alphas_cumprod), 0)
    objective = Objective(scheduler.alphas_cumprod, "epsilon", options.min_snr_gamma)
    return Trainee(unet, text, Captions(ids, ids), draws, objective, options, device).advance


def as_the_example(shape: str, batch_size: int, device: torch.device) -> Step:
    """A step as diffusers' ``train_dreambooth_lora.py`` takes it: contiguous, mean squared error on epsilon.

    Latents are cached here too, which spares it the VAE in every step.
    """
    unet: Any = unet_of(shape).requires_grad_(False)
    accelerator = Accelerator(mixed_precision="bf16", cpu=device.type == "cpu")
    unet.to(device) if device.type == "cpu" else unet.to(device, torch.bfloat16)
    options = TrainingOptions(
        num_steps=1_000, rank=_RANK, alpha=float(_RANK), learning_rate=1e-4, batch_size=batch_size
    )
    inject_adapter_in_model(lora_config(UNET_TARGETS, options), unet)
    learnt = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in learnt:
        parameter.data = parameter.data.float()
    latents = latents_of(unet)[:batch_size].to(device)
    context = torch.randn(batch_size, _TOKENS, unet.config.cross_attention_dim, device=device)
    network, optimizer = accelerator.prepare(unet, torch.optim.AdamW(learnt, lr=1e-4))
    scheduler = DDIMScheduler()

    def step() -> None:
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1_000, (batch_size,), device=device)
        predicted = network(scheduler.add_noise(latents, noise, timesteps), timesteps, context).sample
        loss = nn.functional.mse_loss(predicted.float(), noise)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def rates(steps: dict[str, Step], num_steps: int, device: torch.device) -> dict[str, float]:
    """Steps a second of each, measured in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(-_WARM_UP, _ROUNDS):
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(num_steps):
                step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_number >= 0:
                seconds[name].append(time.perf_counter() - began)
    return {name: round(num_steps / median(spent), 3) for name, spent in seconds.items()}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a message when it is not one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--sd15", action="store_true", help="Stable Diffusion 1.5 at full size")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=10, help="steps of a round")
    options = parser.parse_args(arguments)
    if min(options.batch) < 1 or options.steps < 1:
        parser.error("--batch and --steps must be 1 or more")
    return options


def main() -> None:
    options = parse()
    device, shape = torch.device(options.device), "sd15" if options.sd15 else "mini"
    results = []
    for batch_size in options.batch:
        steps = {
            "limner": ours(shape, batch_size, device),
            "diffusers_example": as_the_example(shape, batch_size, device),
        }
        found = rates(steps, options.steps, device)
        results.append({"batch": batch_size, "steps_per_s": found})
        print(f"batch {batch_size}: {found}", flush=True)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    print(json.dumps({"benchmark": "training", "shape": shape, "results": results, "peak_bytes": memory}))


if __name__ == "__main__":
    main()
