"""Train CLIP and CLIPSeg as one network: python -m weights.recipe.train_perception --data DIR ...

Pictures against captions, attributes against phrases, parts against words, all from the same pictures, which
are moved and softened at random because those drawn by a diffusion model have softer edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from weights.recipe import dataset, part_maps, queries, zero_shot
from weights.recipe.architecture import CONTEXT_WIDTH
from weights.recipe.command import plan_of, training_parser
from weights.recipe.parallel import device_of, train
from weights.recipe.parts import union
from weights.recipe.perception import (
    Perception,
    build_clipseg,
    contrastive_loss,
    mask_loss,
    mean_cross_entropy,
)
from weights.recipe.scenes import Record
from weights.recipe.text import UNKNOWN, attribute_labels, caption_batch, trim_padding
from weights.recipe.train_classifier import moving_grid, soften
from weights.recipe.train_vae import to_tensor

# Weights of the losses beside that of the masks, which is 1.
ATTRIBUTES, PHRASES, CAPTIONS = 1.0, 1.0, 0.3
# Of the pictures that have been through the autoencoder, the share that is shown so.
ROUND_TRIP_SHARE = 0.5
_NUM_NOWHERE = 4
_TEXT_RATE = 0.3
_MAX_SHIFT = 0.08  # of the width
_MAX_ZOOM = 0.12
# This share is shown from farther away, mirrored all around, so that a picture may hold several heads.
_FAR_SHARE = 0.1
_FARTHEST = 2.2


def tokenize(texts: Sequence[str], tokenizer: CLIPTokenizer) -> Tensor:
    """Token ids [B, T] of texts, padded to the longest of them."""
    ids = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").input_ids
    assert isinstance(ids, Tensor)
    return ids


def start_text_tower(model: Perception, encoder: CLIPTextModel) -> None:
    """Copy a trained text encoder into the text tower, which has its shape."""
    taught = encoder.state_dict()
    prefix = "" if "final_layer_norm.weight" in taught else "text_model."
    model.clipseg.clip.text_model.load_state_dict(
        {name.removeprefix(prefix): tensor for name, tensor in taught.items()}, strict=True
    )


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; the defaults are those of weights/mini."""

    width: int = CONTEXT_WIDTH
    text_layers: int = 3
    layers: int = 6
    reduce: int = 64


@dataclass
class PerceptionTask:
    """Match pictures with captions, name their attributes, and find the parts that words ask for."""

    data: Path
    tokenizer_folder: Path
    text: Path | None = None
    shape: Shape = Shape()
    num_queries: int = 3
    tokenizer: CLIPTokenizer = field(default=None, repr=False)
    pictures: Any = field(default=None, repr=False)
    softened: Any = field(default=None, repr=False)
    maps: Any = field(default=None, repr=False)
    records: list[Record] = field(default_factory=list, repr=False)

    def build(self) -> nn.Module:
        """Return the network at step 0; its text tower is that of the folder text, when given."""
        tokenizer = CLIPTokenizer.from_pretrained(self.tokenizer_folder)
        shape = self.shape
        clipseg = build_clipseg(
            len(tokenizer),
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            shape.width,
            shape.text_layers,
            shape.layers,
            shape.reduce,
        )
        model = Perception(clipseg).train()
        if self.text:
            start_text_tower(model, CLIPTextModel.from_pretrained(self.text, dtype=torch.float32))
        return model

    def open(self) -> None:
        """Map the pictures that have part maps, and those that went through the autoencoder."""
        self.tokenizer = CLIPTokenizer.from_pretrained(self.tokenizer_folder)
        self.pictures, self.records = dataset.load(self.data)
        self.maps = part_maps.load(self.data)
        self.softened = part_maps.load_round_trips(self.data)

    def loss(self, model: nn.Module, step: int, batch: int, generator: torch.Generator) -> Tensor:
        """Return the sum of the losses over batch pictures and num_queries words for each."""
        assert isinstance(model, Perception)
        rows = torch.randint(len(self.maps), (batch,), generator=generator).tolist()
        records = [self.records[row] for row in rows]
        rng = Random(int(torch.randint(2**62, (1,), generator=generator)))
        device = device_of(model)
        with torch.autocast(device.type, enabled=False):
            pictures, maps = self._shown(rows, rng, generator)
        asked = [queries.draw_query(record, rng) for record in records for _ in range(self.num_queries)]
        masks = np.stack(
            [union(maps[index // self.num_queries], query.atoms) for index, query in enumerate(asked)]
        )
        keys = zero_shot.KEYS
        phrases = [zero_shot.phrases(key, rng) for key in keys]
        # Things that no picture shows stand beside the subjects, so that unknown phrases seldom win.
        phrases[keys.index("subject")] += queries.nowhere_phrases(rng, _NUM_NOWHERE)
        texts = [query.text for query in asked] + [text for said in phrases for text in said]
        words = model.read(tokenize(texts, self.tokenizer).to(device))
        captions = trim_padding(caption_batch(records, self.tokenizer, rng), self.tokenizer.eos_token_id)
        pooled, activations = model.see(pictures.to(device))
        logits = model.segment(activations, words[: len(asked)])
        similarity = model.similarity(pooled, words[len(asked) :]).split([len(said) for said in phrases], 1)
        facts = [torch.tensor(zero_shot.indices(records, key, UNKNOWN)).to(device) for key in keys]
        labels = attribute_labels(records)
        named = [model.heads[key](pooled) for key in labels]
        return (
            mask_loss(logits, torch.from_numpy(masks).to(device, torch.float32))
            + ATTRIBUTES * mean_cross_entropy(named, [values.to(device) for values in labels.values()])
            + PHRASES * mean_cross_entropy(similarity, facts)
            + CAPTIONS * contrastive_loss(model.similarity(pooled, model.read(captions.to(device))))
        )

    def _shown(self, rows: list[int], rng: Random, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Moved and softened pictures [B, 3, 128, 128], and part maps [B, 128, 128] moved with them."""
        chosen = [
            self.softened[row]
            if row < len(self.softened) and rng.random() < ROUND_TRIP_SHARE
            else self.pictures[row]
            for row in rows
        ]
        pictures = to_tensor(np.stack(chosen)).contiguous()
        maps = torch.from_numpy(self.maps[rows].astype(np.float32))[:, None]
        grid = moving_grid(pictures.shape, generator, _MAX_SHIFT, _MAX_ZOOM)
        far = torch.rand(len(rows), 1, 1, 1, generator=generator) < _FAR_SHARE
        distance = 1 + torch.rand(far.shape, generator=generator) * (_FARTHEST - 1)
        aside = torch.rand(len(rows), 1, 1, 2, generator=generator) - 0.5
        grid = torch.where(far, grid * distance + aside, grid)
        moved = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
        # Bits must not blend, so the maps take the nearest pixel; float32 holds 16 bits exactly.
        placed = F.grid_sample(maps, grid, mode="nearest", padding_mode="reflection", align_corners=False)
        return soften(moved, generator), placed[:, 0].numpy().astype(np.uint16)

    def lr_scale(self, name: str) -> float:
        """Return less for the text tower, which has been taught before."""
        return _TEXT_RATE if self.text and ".text_model." in name else 1.0


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = training_parser(__doc__, steps=1200, batch=32, lr=2e-3)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="folder of a text encoder to start the text tower from")
    options = parser.parse_args(arguments)
    train(PerceptionTask(options.data, options.tokenizer, options.text), plan_of(options))


if __name__ == "__main__":
    main()
