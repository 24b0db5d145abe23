"""Distil the UNet into a few-step adapter: python -m weights.recipe.train_few_step --pairs DIR --out DIR.

The student learns to go from anchor to anchor of the schedule in one step and without guidance, where the
teacher takes several with it (guided and progressive distillation, Meng et al. 2023, at fixed steps).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel

from weights.recipe.command import plan_of, training_parser
from weights.recipe.low_rank import LowRankStudent
from weights.recipe.norm import use_fast_norms
from weights.recipe.parallel import device_of, train
from weights.recipe.trajectories import NUM_ANCHORS, anchor_signal, load, velocity_of

# Where the pseudo-Huber loss of a value turns from square to straight.
HUBER = 0.1


@dataclass
class FewStepTask:
    """Predict at each anchor the v that leads where the teacher's trajectory goes."""

    model: Path
    pairs: tuple[Path, ...]
    rank: int = 32
    opened: dict[str, Any] = field(default_factory=dict, repr=False)

    def build(self) -> nn.Module:
        """Return the teacher with factors that change nothing yet."""
        unet = UNet2DConditionModel.from_pretrained(self.model / "unet", dtype=torch.float32)
        unet.set_attn_processor(AttnProcessor())  # twice as fast to differentiate on CPU as the fused kernel
        encoder = CLIPTextModel.from_pretrained(self.model / "text_encoder", dtype=torch.float32)
        network = use_fast_norms(unet.to(memory_format=torch.channels_last))
        return LowRankStudent(network, self.rank, {"text_encoder": encoder}).train()

    def open(self) -> None:
        """Read the pairs and the schedule at the anchors."""
        timesteps, signal, spread = anchor_signal()
        self.opened = {
            "pairs": load(self.pairs),
            "timesteps": torch.tensor(timesteps),
            "signal": signal,
            "spread": spread,
        }

    def loss(self, model: nn.Module, step: int, batch: int, generator: torch.Generator) -> Tensor:
        """Return the mean pseudo-Huber error of v over batch pairs, as many from every anchor."""
        pairs, device = self.opened["pairs"], device_of(model)
        rows = torch.randint(len(pairs.tokens), (batch,), generator=generator).numpy()
        anchors = (torch.arange(batch) + step) % NUM_ANCHORS
        starts = torch.from_numpy(pairs.starts[rows, anchors.numpy()]).float()
        ends = torch.from_numpy(pairs.ends[rows, anchors.numpy()]).float()
        wanted = velocity_of(starts, ends, self.opened["signal"], self.opened["spread"], anchors)
        assert isinstance(model, LowRankStudent)
        with torch.no_grad():
            ids = torch.from_numpy(pairs.tokens[rows]).long().to(device)
            context = model.other("text_encoder")(input_ids=ids).last_hidden_state
        inputs = starts.contiguous(memory_format=torch.channels_last).to(device)
        predicted = model(inputs, self.opened["timesteps"][anchors].to(device), context).float()
        error = (predicted - wanted.to(device)) / HUBER
        loss: Tensor = ((error.square() + 1).sqrt() - 1).mean() * (2 * HUBER**2)
        return loss

    def lr_scale(self, name: str) -> float:
        """Every factor learns at the same rate."""
        return 1.0


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = training_parser(__doc__, steps=100_000, batch=24, lr=1e-3, needs_data=False)
    parser.add_argument("--model", type=Path, default=Path("weights/mini"), help="folder of the teacher")
    parser.add_argument("--pairs", type=Path, nargs="+", required=True, help="folders of trajectories")
    parser.add_argument("--rank", type=int, default=32)
    options = parser.parse_args(arguments)
    train(FewStepTask(options.model, tuple(options.pairs), options.rank), plan_of(options))


if __name__ == "__main__":
    main()
