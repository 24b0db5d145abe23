"""CLIP and the CLIPSeg decoder of the embedded model: their shape and their losses.

Knows tensors; nothing about scenes, files or optimizers.
"""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from weights.recipe.architecture import CONTEXT_TOKENS, CONTEXT_WIDTH, RESOLUTION
from weights.recipe.scenes import ATTRIBUTE_VALUES
from weights.recipe.text import UNKNOWN

PATCH: Final = 8
# A small part's pixels count up to this many times as much as a large one's.
_MAX_WEIGHT: Final = 6.0
_COMMON_AREA: Final = 0.25


def build_clipseg(
    vocab_size: int,
    bos_token_id: int,
    eos_token_id: int,
    width: int = CONTEXT_WIDTH,
    text_layers: int = 3,
    layers: int = 6,
    reduce: int = 64,
) -> CLIPSegForImageSegmentation:
    """An untrained CLIPSeg: pictures [B, 3, 128, 128] in [-1, 1] and token ids to mask logits [B, 128, 128].

    Its text tower has the shape of the text encoder of weights/mini. Attention is spelled out, not fused:
    the fused kernel's backward pass is slow on a CPU.
    """
    tower = {"hidden_size": width, "intermediate_size": 4 * width}
    config = CLIPSegConfig(
        text_config={
            **tower,
            "vocab_size": vocab_size,
            "num_hidden_layers": text_layers,
            "num_attention_heads": max(1, width // 48),
            "max_position_embeddings": CONTEXT_TOKENS,
            "hidden_act": "gelu",
            "bos_token_id": bos_token_id,
            "eos_token_id": eos_token_id,
            "pad_token_id": eos_token_id,
        },
        vision_config={
            **tower,
            "num_hidden_layers": layers,
            "num_attention_heads": max(1, width // 64),
            "image_size": RESOLUTION,
            "patch_size": PATCH,
            "hidden_act": "gelu",
        },
        projection_dim=width,
        reduce_dim=reduce,
        decoder_num_attention_heads=max(1, reduce // 32),
        decoder_intermediate_size=4 * reduce,
        extract_layers=sorted({layers // 3 - 1, 2 * layers // 3 - 1, layers - 1} - {-1}),
        attn_implementation="eager",
    )
    network = CLIPSegForImageSegmentation(config)
    _even_out(network.decoder)
    return network


def _even_out(decoder: nn.Module) -> None:
    """Draw the decoder's plain layers anew, by their number of inputs, and let words change nothing at first.

    transformers draws them with a deviation of 1: sums in the hundreds, behind which no gradient comes back.
    """
    for module in decoder.modules():
        if isinstance(module, nn.Linear | nn.ConvTranspose2d):
            module.reset_parameters()
    decoder.film_mul.bias.data.fill_(1.0)  # type: ignore[union-attr, operator]


class Perception(nn.Module):
    """CLIPSeg, trained as one network, with a linear head per attribute that only training uses."""

    def __init__(self, clipseg: CLIPSegForImageSegmentation) -> None:
        super().__init__()
        self.clipseg = clipseg
        width = clipseg.config.vision_config.hidden_size
        self.heads = nn.ModuleDict(
            {key: nn.Linear(width, len(names)) for key, names in ATTRIBUTE_VALUES.items()}
        )

    def see(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Pooled output [B, width] and the activations [B, 1 + patches, width] that the decoder reads."""
        tower = self.clipseg.clip.vision_model
        hidden = tower.pre_layrnorm(tower.embeddings(pictures))
        activations = []
        for index, layer in enumerate(tower.encoder.layers):
            hidden = layer(hidden, None)
            if index in self.clipseg.extract_layers:
                activations.append(hidden)
        return tower.post_layernorm(hidden[:, 0]), activations

    def read(self, ids: Tensor) -> Tensor:
        """Text embeddings [B, projection], not normalised, of token ids [B, T]."""
        embeddings: Tensor = self.clipseg.clip.get_text_features(ids).pooler_output
        return embeddings

    def segment(self, activations: Sequence[Tensor], words: Tensor) -> Tensor:
        """Mask logits [B * Q, 128, 128] for text embeddings [B * Q, projection], Q in a row per picture."""
        num = len(words) // len(activations[0])
        repeated = tuple(activation.repeat_interleave(num, 0) for activation in activations)
        logits: Tensor = self.clipseg.decoder(repeated, words).logits
        return logits.float()

    def similarity(self, pooled: Tensor, texts: Tensor) -> Tensor:
        """Scaled cosine similarities [B, T] of pooled outputs [B, width] and text embeddings [T, width]."""
        clip = self.clipseg.clip
        seen = F.normalize(clip.visual_projection(pooled).float(), dim=-1)
        scale = clip.logit_scale.float().clamp(max=4.6).exp()
        similarities: Tensor = scale * seen @ F.normalize(texts.float(), dim=-1).T
        return similarities


def contrastive_loss(similarity: Tensor) -> Tensor:
    """CLIP's loss of similarities [B, B] whose diagonal belongs together (Radford et al. 2021)."""
    own = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


def mean_cross_entropy(logits: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Cross-entropy of logits [B, classes] and indices [B], averaged over the pairs that know an answer."""
    losses = [
        F.cross_entropy(row.float(), indices, ignore_index=UNKNOWN)
        for row, indices in zip(logits, wanted, strict=True)
        if bool((indices != UNKNOWN).any())
    ]
    return torch.stack(losses).mean()


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy per pixel, small parts weighted up, plus the Dice loss of masks [N, H, W] not empty."""
    area = masks.mean((1, 2))
    weight = (_COMMON_AREA / area.clamp_min(1e-6)).sqrt().clamp(1, _MAX_WEIGHT)
    weight = torch.where(area > 0, weight, torch.ones_like(weight))
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean((1, 2))
    found = logits.sigmoid()
    shared = (found * masks).sum((1, 2))
    dice = 1 - (2 * shared + 1) / (found.sum((1, 2)) + masks.sum((1, 2)) + 1)
    return (3 * weight * entropy + dice * (area > 0)).mean()
