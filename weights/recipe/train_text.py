"""Teach the text encoder attributes: python -m weights.recipe.train_text --data DIR --tokenizer DIR ...

Linear heads over the pooled token predict every attribute of the caption's record, so that the UNet later
starts from separated words.
"""

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from weights.recipe import dataset
from weights.recipe.architecture import CONTEXT_WIDTH, build_text_encoder
from weights.recipe.command import plan_of, training_parser
from weights.recipe.parallel import device_of, train
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
        device = device_of(model)
        labels = {key: values.to(device) for key, values in attribute_labels(records).items()}
        return model.loss(ids.to(device), labels)

    def lr_scale(self, name: str) -> float:
        """Return 1: all layers learn alike."""
        return 1.0


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = training_parser(__doc__, steps=800, batch=64, lr=1e-3, cooldown_from=500)
    parser.add_argument("--tokenizer", type=Path, required=True)
    options = parser.parse_args(arguments)
    train(TextTask(options.data, options.tokenizer), plan_of(options))


if __name__ == "__main__":
    main()
