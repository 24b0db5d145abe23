"""Train the attribute classifier: python -m weights.recipe.train_classifier --data DIR --held-out DIR ...

Renderings are moved, softened and made noisy at random, so that slightly soft pictures are judged fairly.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from weights.recipe import classifier, dataset
from weights.recipe.checkpoint import load as load_checkpoint
from weights.recipe.classifier import AttributeClassifier
from weights.recipe.command import plan_of, training_parser
from weights.recipe.norm import use_fast_norms
from weights.recipe.parallel import device_of, train
from weights.recipe.scenes import Record

MAX_SHIFT = 0.05  # of the width
MAX_ZOOM = 0.04
MAX_NOISE = 0.06  # of the range -1 to 1
MAX_TINT = 0.05
_BLUR = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])) / 16


def _uniform(batch: int, generator: torch.Generator, channels: int = 1) -> Tensor:
    return torch.rand(batch, channels, 1, 1, generator=generator)


def moving_grid(
    shape: torch.Size, generator: torch.Generator, max_shift: float = MAX_SHIFT, max_zoom: float = MAX_ZOOM
) -> Tensor:
    """Sampling grid [B, H, W, 2] that shifts and zooms each picture of shape [B, C, H, W] by its own amounts.

    max_shift is in widths, max_zoom a share of the size.
    """
    batch = shape[0]
    shift = (torch.rand(batch, 2, generator=generator) * 2 - 1) * 2 * max_shift
    zoom = 1 + (_uniform(batch, generator)[:, :, 0, 0] * 2 - 1) * max_zoom
    moves = torch.zeros(batch, 2, 3)
    moves[:, 0, 0] = moves[:, 1, 1] = zoom[:, 0]
    moves[:, :, 2] = shift
    grid: Tensor = F.affine_grid(moves, list(shape), align_corners=False)
    return grid


def soften(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, tint and add noise to pictures [B, 3, H, W] in [-1, 1], each by its own amounts.

    A third of the pictures stays sharp.
    """
    batch, channels = pictures.shape[:2]
    kernel = _BLUR.expand(channels, 1, 3, 3)
    soft = F.conv2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)
    blur = (1.5 * _uniform(batch, generator) - 0.5).clamp_min(0)
    tint = (_uniform(batch, generator, channels) * 2 - 1) * MAX_TINT
    noise = torch.randn(pictures.shape, generator=generator) * _uniform(batch, generator) * MAX_NOISE
    return (pictures.lerp(soft, blur) + tint + noise).clamp(-1, 1)


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shift, zoom and soften pictures [B, 3, H, W] in [-1, 1], each by its own amounts."""
    grid = moving_grid(pictures.shape, generator)
    moved = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    return soften(moved, generator)


def read_unfiltered(folder: Path, num: int | None = None) -> tuple[NDArray[np.uint8], list[Record]]:
    """The first num (or all) pictures without a style, [N, 64, 64, 3] uint8, and their records."""
    pictures, records = dataset.load(folder)
    rows = [row for row, record in enumerate(records) if not record.style][:num]
    parts = []
    for start in range(0, len(rows), 250):
        small = classifier.shrink(torch.from_numpy(pictures[rows[start : start + 250]]))
        parts.append(small.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts), [records[row] for row in rows]


@dataclass
class ClassifierTask:
    """Name the attributes of augmented, unfiltered renderings."""

    data: Path
    num: int | None = None
    pictures: Tensor = field(default=None, repr=False)  # type: ignore[assignment]
    labels: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def build(self) -> nn.Module:
        """Return an untrained classifier."""
        return use_fast_norms(AttributeClassifier())

    def open(self) -> None:
        """Read and shrink the pictures."""
        pictures, records = read_unfiltered(self.data, self.num)
        self.pictures, self.labels = torch.from_numpy(pictures), classifier.labels(records)

    def loss(self, model: nn.Module, step: int, batch: int, generator: torch.Generator) -> Tensor:
        """Return the cross-entropy over batch augmented pictures."""
        rows = torch.randint(len(self.pictures), (batch,), generator=generator)
        assert isinstance(model, AttributeClassifier)
        with torch.autocast("cpu", enabled=False):
            pictures = augment(classifier.shrink(self.pictures[rows]), generator)
        device = device_of(model)
        wanted = {key: indices[rows].to(device) for key, indices in self.labels.items()}
        return model.loss(pictures.to(device), wanted)

    def lr_scale(self, name: str) -> float:
        """Return 1: all layers learn alike."""
        return 1.0


def accuracy(model: AttributeClassifier, pictures: Tensor, records: list[Record]) -> dict[str, float]:
    """Share of right answers per key over uint8 pictures [N, H, W, 3], where the picture shows the key."""
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for found, record in zip(model.classify(pictures), records, strict=True):
        for key, value in classifier.shown(record).items():
            total[key] += 1
            right[key] += found[key] == value
    return {key: round(right[key] / total[key], 4) for key in classifier.KEYS if total[key]}


def finish(out: Path, held_out: Path) -> dict[str, object]:
    """Write the averaged weights of the checkpoint in out, and their accuracy, which is returned, as JSON."""
    state = load_checkpoint(out)
    if state is None:
        raise FileNotFoundError(f"no checkpoint in {out}")
    model = AttributeClassifier()
    model.load_state_dict(state["average"])
    target = out / classifier.WEIGHTS.name
    classifier.save(model, target)
    model = classifier.load(target)
    small, records = read_unfiltered(held_out)
    pictures = torch.from_numpy(small)
    generator = torch.Generator().manual_seed(0)
    softened = [augment(classifier.shrink(part), generator) for part in torch.split(pictures, 250)]
    as_bytes = torch.cat(softened).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1)
    facts: dict[str, object] = {
        "steps": state["step"],
        "held_out_pictures": len(records),
        "accuracy": accuracy(model, pictures, records),
        "accuracy_softened": accuracy(model, as_bytes, records),
    }
    target.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, train and measure."""
    parser = training_parser(__doc__, steps=1500, batch=64, lr=2e-3, cooldown_from=750)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--num", type=int, default=16_000, help="unfiltered pictures to train on")
    options = parser.parse_args(arguments)
    train(ClassifierTask(options.data, options.num), plan_of(options))
    print(json.dumps(finish(options.out, options.held_out)))


if __name__ == "__main__":
    main()
