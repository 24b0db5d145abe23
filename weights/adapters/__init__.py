"""Adapter files: read from any layout, checked against a model, written for others."""

from weights.adapters.fitting import check_fits
from weights.adapters.layers import (
    AdapterWeights,
    Fact,
    LoraLayer,
    tensors_sha256,
    text_encoder_factors,
    unet_factors,
)
from weights.adapters.names import SECOND_TEXT_ENCODER
from weights.adapters.reading import read_adapter
from weights.adapters.writing import write_kohya, write_peft

__all__ = [
    "SECOND_TEXT_ENCODER",
    "AdapterWeights",
    "Fact",
    "LoraLayer",
    "check_fits",
    "read_adapter",
    "tensors_sha256",
    "text_encoder_factors",
    "unet_factors",
    "write_kohya",
    "write_peft",
]
