"""OpenCLIP's text encoder, as single files of Stable Diffusion XL have it, in transformers' words.

Knows names and which tensors are several in one; reads no values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from weights.tensor_file import Tensor

_ENDS = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_JOINED = re.compile(r"attn\.in_proj_(weight|bias)")
# Not of the text encoder alone.
_UNUSED = ("logit_scale",)


def named_by_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of a ``CLIPTextModelWithProjection``; a key that is none keeps its name.

    Queries, keys and values are one matrix there, and the projection is multiplied from the other side.
    """
    named: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        block = _BLOCK.fullmatch(key)
        if key in _UNUSED:
            continue
        if key == "text_projection" and len(tensor.shape) == 2:
            named["text_projection.weight"] = tensor.transpose()
        elif key in _ENDS:
            named[f"text_model.{_ENDS[key]}"] = tensor
        elif block is None:
            named[key] = tensor
        else:
            layer, rest = f"text_model.encoder.layers.{block[1]}", block[2]
            joined = _JOINED.fullmatch(rest)
            if joined and tensor.shape[0] % 3 == 0:
                for index, place in enumerate("qkv"):
                    named[f"{layer}.self_attn.{place}_proj.{joined[1]}"] = tensor.part(index, 3)
            else:
                stem, _, kind = rest.rpartition(".")
                named[f"{layer}.{_LAYERS.get(stem, stem)}.{kind}"] = tensor
    return named
