"""Train the UNet with the text encoder: python -m weights.recipe.train_unet --data DIR --latents DIR ...

A run at constant rate can be cut short at any checkpoint: start it again with --steps N --cooldown-from M.
A new run can start from a model folder, with --start weights/mini.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from weights.recipe import dataset
from weights.recipe.architecture import (
    CONTEXT_WIDTH,
    UNET_BLOCKS,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from weights.recipe.command import plan_of, training_parser
from weights.recipe.export import TEXT_PREFIX, averaged, load_part
from weights.recipe.norm import use_fast_norms
from weights.recipe.parallel import device_of, train
from weights.recipe.scenes import Record
from weights.recipe.text import caption_batch

EMPTY_SHARE = 0.1
GAMMA = 5.0
LEAST_WEIGHT = 0.1
TEXT_LR_SCALE = 0.3


def timestep_weights(alphas_cumprod: Tensor) -> Tensor:
    """Return how often each timestep is trained: min(1, gamma / (SNR + 1)), at least a tenth.

    This is the min-SNR weight of the v loss (Hang et al. 2023) on the clean side. On the noisy side the
    weight stays 1, since the first sampling steps, without any signal, decide layout and colours.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod).clamp_min(1e-8)
    return (GAMMA / (snr + 1)).clamp(LEAST_WEIGHT, 1.0)


def draw_timesteps(cumulative: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """Return batch timesteps drawn by their weights, one from each of batch equal shares of the total."""
    positions = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    return torch.searchsorted(cumulative, positions * cumulative[-1]).clamp_max(len(cumulative) - 1)


def row_weights(subjects: Sequence[str], balance: float) -> Tensor:
    """Return how often each row is drawn: a subject of n rows in proportion to n ** (1 - balance).

    0 draws all rows alike, 1 all subjects, 0.5 is the square-root sampling of Mahajan et al. 2018.
    """
    counts = Counter(subjects)
    return torch.tensor([counts[subject] ** -balance for subject in subjects])


@dataclass
class UnetTask:
    """Predict v from noisy latents and captions drawn afresh at every use."""

    data: Path
    latents_folder: Path
    tokenizer_folder: Path
    text: Path | None = None
    start: Path | None = None
    blocks: tuple[int, ...] = UNET_BLOCKS
    width: int = CONTEXT_WIDTH
    text_layers: int = 3
    balance: float = 0.0
    opened: dict[str, Any] = field(default_factory=dict, repr=False)

    def build(self) -> nn.Module:
        """Return an untrained UNet and the text encoder as train_text left it, or both as in `start`."""
        if self.start:
            unet = UNet2DConditionModel.from_pretrained(self.start / "unet", dtype=torch.float32)
            encoder = CLIPTextModel.from_pretrained(self.start / "text_encoder", dtype=torch.float32)
            return self._trainable(unet, encoder)
        tokenizer = CLIPTokenizer.from_pretrained(self.tokenizer_folder)
        encoder = build_text_encoder(
            len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id, self.width, self.text_layers
        )
        if self.text:
            load_part(encoder, averaged(self.text), TEXT_PREFIX)
        return self._trainable(build_unet(self.blocks, self.width), encoder)

    def _trainable(self, unet: UNet2DConditionModel, encoder: CLIPTextModel) -> nn.Module:
        unet.set_attn_processor(AttnProcessor())  # twice as fast to differentiate on CPU as the fused kernel
        return nn.ModuleDict({"unet": use_fast_norms(unet), "text_encoder": encoder}).train()

    def open(self) -> None:
        """Map the latents; read records, tokenizer and noise schedule."""
        alphas = build_scheduler().alphas_cumprod
        latents = np.load(self.latents_folder / "latents.npy", mmap_mode="r")
        records = list[Record](dataset.load(self.data)[1])[: len(latents)]
        self.opened = {
            "latents": latents,
            "records": records,
            "weights": row_weights([record.subject for record in records], self.balance),
            "tokenizer": CLIPTokenizer.from_pretrained(self.tokenizer_folder),
            "alphas": alphas,
            "cumulative": timestep_weights(alphas).cumsum(0),
        }

    def loss(self, model: nn.Module, step: int, batch: int, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of v over batch samples."""
        rows = torch.multinomial(
            self.opened["weights"], batch, replacement=True, generator=generator
        ).tolist()
        rng = Random(int(torch.randint(2**62, (1,), generator=generator)))
        records = [self.opened["records"][row] for row in rows]
        ids = caption_batch(records, self.opened["tokenizer"], rng, EMPTY_SHARE)
        clean = torch.from_numpy(np.stack([self.opened["latents"][row] for row in rows])).float()
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = draw_timesteps(self.opened["cumulative"], batch, generator)
        signal = self.opened["alphas"][timesteps].sqrt().view(-1, 1, 1, 1)
        spread = (1 - self.opened["alphas"][timesteps]).sqrt().view(-1, 1, 1, 1)
        noisy = (signal * clean + spread * noise).contiguous(memory_format=torch.channels_last)
        assert isinstance(model, nn.ModuleDict)
        wanted = signal * noise - spread * clean
        device = device_of(model)
        context = model["text_encoder"](input_ids=ids.to(device)).last_hidden_state
        predicted = model["unet"](noisy.to(device), timesteps.to(device), context).sample.float()
        loss: Tensor = (predicted - wanted.to(device)).square().mean()
        return loss

    def lr_scale(self, name: str) -> float:
        """Return a lower rate for the text encoder, which has been trained before."""
        return TEXT_LR_SCALE if name.startswith(TEXT_PREFIX) else 1.0


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = training_parser(__doc__, steps=100_000, batch=32, lr=2e-3)
    parser.add_argument("--latents", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="output folder of train_text")
    parser.add_argument("--start", type=Path, help="model folder to go on from, without its optimizer state")
    parser.add_argument(
        "--balance", type=float, default=0.5, help="0: every picture as often as any other; 1: every subject"
    )
    options = parser.parse_args(arguments)
    task = UnetTask(
        options.data,
        options.latents,
        options.tokenizer,
        options.text,
        options.start,
        balance=options.balance,
    )
    train(task, plan_of(options))


if __name__ == "__main__":
    main()
