"""Captions as training batches, and the text encoder with attribute heads.

Knows records, captions and the tokenizer; nothing about pictures. An image tower that shares the
projection width belongs next to `AttributeReader`.
"""

from collections.abc import Mapping, Sequence
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from weights.recipe.captions import caption
from weights.recipe.scenes import ATTRIBUTE_VALUES, Record

UNKNOWN = -100


def caption_batch(
    records: Sequence[Record], tokenizer: CLIPTokenizer, rng: Random, empty_share: float = 0.0
) -> Tensor:
    """Return token ids [B, 77] of freshly drawn captions; a share of them is empty, for guidance."""
    texts = ["" if rng.random() < empty_share else caption(record, rng) for record in records]
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert isinstance(ids, Tensor)
    return ids


def attribute_labels(records: Sequence[Record]) -> dict[str, Tensor]:
    """Return the class index [B] of every attribute; UNKNOWN where the picture does not show it."""
    labels = [record.labels() for record in records]
    return {
        key: torch.tensor([values.index(row[key]) if key in row else UNKNOWN for row in labels])
        for key, values in ATTRIBUTE_VALUES.items()
    }


class AttributeReader(nn.Module):
    """A text encoder with one linear head per attribute over the pooled end token."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = encoder
        width = encoder.config.hidden_size
        self.heads = nn.ModuleDict(
            {key: nn.Linear(width, len(names)) for key, names in ATTRIBUTE_VALUES.items()}
        )

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """Return the logits [B, classes] of every attribute for token ids [B, T]."""
        pooled = self.text_encoder(input_ids=ids).pooler_output
        return {key: head(pooled) for key, head in self.heads.items()}

    def loss(self, ids: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """Return the cross-entropy, averaged over the attributes that occur."""
        logits = self(ids)
        losses = [
            F.cross_entropy(logits[key].float(), wanted, ignore_index=UNKNOWN)
            for key, wanted in labels.items()
            if bool((wanted != UNKNOWN).any())
        ]
        return torch.stack(losses).mean()


def trim_padding(ids: Tensor, end: int) -> Tensor:
    """Cut columns in which every row is padding; exact for pooled outputs of a causal encoder."""
    length = int((ids == end).int().argmax(dim=1).max()) + 1
    return ids[:, :length]
