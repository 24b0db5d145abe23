"""Teach the text encoder attributes: python -m weights.recipe.train_text --data DIR --tokenizer DIR ...

Linear heads over the pooled token predict every attribute of the caption's record, so that the UNet later
starts from separated words.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from weights.recipe import dataset
from weights.recipe.architecture import CONTEXT_WIDTH, build_text_encoder
from weights.recipe.parallel import Plan, train
from weights.recipe.scenes import Record
from weights.recipe.text import AttributeReader, attribute_labels, caption_batch, trim_padding


def build_reader(tokenizer: CLIPTokenizer, width: int, layers: int) -> AttributeReader:
    """Return an untrained text encoder with heads, for the tokenizer's vocabulary."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return AttributeReader(build_text_encoder(len(tokenizer), bos, eos, width, layers))


@dataclass
class TextTask:
    """Predict the attributes of records from their captions."""

    data: Path
    tokenizer_folder: Path
    width: int = CONTEXT_WIDTH
    layers: int = 3
    tokenizer: CLIPTokenizer = field(default=None, repr=False)
    records: list[Record] = field(default_factory=list, repr=False)

    def build(self) -> nn.Module:
        """Return an untrained text encoder with heads."""
        return build_reader(CLIPTokenizer.from_pretrained(self.tokenizer_folder), self.width, self.layers)

    def open(self) -> None:
        """Read the records and the tokenizer."""
        self.tokenizer = CLIPTokenizer.from_pretrained(self.tokenizer_folder)
        _, self.records = dataset.load(self.data)

    def loss(self, model: nn.Module, step: int, batch: int, generator: torch.Generator) -> Tensor:
        """Return the cross-entropy over batch captions."""
        rows = torch.randint(len(self.records), (batch,), generator=generator).tolist()
        records = [self.records[row] for row in rows]
        rng = Random(int(torch.randint(2**62, (1,), generator=generator)))
        ids = trim_padding(caption_batch(records, self.tokenizer, rng), self.tokenizer.eos_token_id)
        assert isinstance(model, AttributeReader)
        return model.loss(ids, attribute_labels(records))

    def lr_scale(self, name: str) -> float:
        """Return 1: all layers learn alike."""
        return 1.0


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--cooldown-from", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        out=options.out,
        steps=options.steps,
        cooldown_from=options.cooldown_from,
        batch=options.batch,
        lr=options.lr,
        seed=options.seed,
    )
    train(TextTask(options.data, options.tokenizer), plan)


if __name__ == "__main__":
    main()
