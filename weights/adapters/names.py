"""Key names in adapter files: which layer a tensor belongs to, and which side of it.

Layouts: PEFT (``unet.….to_q.lora_A.weight``), diffusers of 2023 (``….to_q.lora.down.weight``,
``….processor.to_q_lora.down.weight``, ``….lora_linear_layer.down.weight``) and kohya's sd-scripts
(``lora_unet_…_to_q.lora_down.weight``), the last with the block names of diffusers or of the original code.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from weights import ldm
from weights.adapters.container import refusal, shown

UNET, TEXT_ENCODER, SECOND_TEXT_ENCODER = "unet", "text_encoder", "text_encoder_2"
PARTS = (UNET, TEXT_ENCODER, SECOND_TEXT_ENCODER)
KOHYA_UNET, KOHYA_TEXT = "lora_unet_", "lora_te_"
# Stable Diffusion XL's two text encoders are counted.
KOHYA_FIRST_TEXT, KOHYA_SECOND_TEXT = "lora_te1_", "lora_te2_"
# transformers 5 has the layers of CLIPTextModel one level higher than the versions before.
TEXT_LEVEL = "text_model."
_KOHYA_PREFIXES = {
    KOHYA_UNET: UNET,
    KOHYA_TEXT: TEXT_ENCODER,
    KOHYA_FIRST_TEXT: TEXT_ENCODER,
    KOHYA_SECOND_TEXT: SECOND_TEXT_ENCODER,
}
_SIDES = {"A": "down", "B": "up", "down": "down", "up": "up"}
_TENSOR = re.compile(
    r"(?P<layer>.+)\.(?:lora_(?P<peft>A|B)(?:\.default)?|(?:lora|lora_linear_layer)\.(?P<diffusers>down|up)"
    r"|lora_(?P<kohya>down|up))\.weight"
)
_PROCESSOR = re.compile(r"(?P<layer>.+)\.to_(?P<place>q|k|v|out)_lora\.(?P<side>down|up)\.weight")
_PROCESSOR_LAYERS = {
    UNET: {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"},
    TEXT_ENCODER: {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"},
}
# Levels of module paths that have an underscore of their own. All others are single words, so that a path
# with underscores for its dots can be taken apart again.
_COMPOUND = (
    "down_blocks", "up_blocks", "mid_block", "transformer_blocks", "to_q", "to_k", "to_v", "to_out",
    "proj_in", "proj_out", "conv_in", "conv_out", "conv_shortcut", "time_embedding", "time_emb_proj",
    "linear_1", "linear_2", "text_model", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj",
    "input_blocks", "middle_block", "output_blocks", "in_layers", "out_layers", "emb_layers",
    "skip_connection", "time_embed", "label_emb", "add_embedding", "text_projection",
)  # fmt: skip
_LEVEL = re.compile(rf"({'|'.join(_COMPOUND)}|[^_]+)(?:_|$)")
_ORIGINAL_BLOCKS = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.")
# The original code's numbering of blocks is that of Stable Diffusion and its XL, with two layers in each.
_LAYERS_PER_BLOCK = 2

# What an adapter may be instead of a LoRA for the UNet and the text encoders, by a piece of its keys.
_FOREIGN = (
    (r"hada_", "a LoHa (LyCORIS)"),
    (r"lokr_", "a LoKr (LyCORIS)"),
    (r"oft_|\.boft_", "an OFT adapter"),
    (r"dora_scale|lora_magnitude_vector", "a DoRA, whose weights have a magnitude of their own"),
    (r"lora_mid\.", "a LoCon with Tucker decomposition"),
    (r"\.diff(_b)?$", "an adapter with whole differences of weights (diff) beside its factors"),
    (r"ia3_|\.on_input$", "an IA³ adapter"),
    (r"^lora_te3_|^text_encoder_3\.|^transformer\.|^lora_transformer_|double_blocks|joint_blocks",
     "an adapter for a transformer model (Flux, Stable Diffusion 3), not for a UNet"),
    (r"lora_controlnet|^input_hint_block", "a ControlNet"),
    (r"^bundle_emb\.|emb_params", "a bundle with an embedding"),
    (r"\.lora_[AB]\.bias$|lora_(up|down)\.bias$", "a LoRA with biases"),
    (r"lora_embedding_[AB]", "a LoRA of an embedding layer"),
    (r"^base_model\.model\.",
     "the weights of a PEFT folder, whose alpha stands outside of them in adapter_config.json; save them "
     "with diffusers' save_lora_weights and metadata instead"),
    (r"^(model\.diffusion_model|first_stage_model|cond_stage_model)\.|(conv_in|to_q)\.weight$",
     "a whole model, not an adapter; import it with `limner weights import`"),
)  # fmt: skip


class Key(NamedTuple):
    """``part`` is one of ``PARTS``, ``side`` "down", "up" or "alpha"."""

    part: str
    path: str
    side: str


def key_of(name: str) -> Key:
    """What the tensor ``name`` is. Raises :class:`InvalidRequest` that says what cannot be represented."""
    for pattern, what in _FOREIGN:
        if re.search(pattern, name):
            raise refusal(f"The file is {what}: {shown(name)}. Only plain LoRA files are taken.")
    for prefix, part in _KOHYA_PREFIXES.items():
        if name.startswith(prefix):
            return _kohya_key(name, prefix, part)
    part, _, rest = name.partition(".")
    if part not in PARTS:
        # diffusers once wrote the UNet's layers without a prefix.
        part, rest = UNET, name
    if match := _PROCESSOR.fullmatch(rest):
        places = _PROCESSOR_LAYERS[UNET if part == UNET else TEXT_ENCODER]
        layer = f"{match['layer']}.{places[match['place']]}"
        return Key(part, _path(part, layer), match["side"])
    return _key(name, part, rest)


def kohya_name(part: str, path: str, *, counted: bool = False) -> str:
    """The layer's name in kohya's layout; ``counted`` where there are two text encoders."""
    first = KOHYA_FIRST_TEXT if counted else KOHYA_TEXT
    prefix = {UNET: KOHYA_UNET, TEXT_ENCODER: first, SECOND_TEXT_ENCODER: KOHYA_SECOND_TEXT}[part]
    whole = path if part == UNET else TEXT_LEVEL + path
    return prefix + whole.replace(".", "_")


def _kohya_key(name: str, prefix: str, part: str) -> Key:
    layer, _, rest = name.removeprefix(prefix).partition(".")
    levels = _LEVEL.findall(layer)
    path = ".".join(levels)
    if path.replace(".", "_") != layer:
        raise _unknown(name)
    if part == UNET and path.startswith(_ORIGINAL_BLOCKS):
        modern = ldm.unet_name(f"{path}.weight", _LAYERS_PER_BLOCK)
        if modern is None:
            raise _unknown(name)
        path = modern.removesuffix(".weight")
    return _key(name, part, f"{path}.{rest}")


def _key(name: str, part: str, rest: str) -> Key:
    if match := _TENSOR.fullmatch(rest):
        side = match["peft"] or match["diffusers"] or match["kohya"]
        return Key(part, _path(part, match["layer"]), _SIDES[side])
    if rest.endswith(".alpha"):
        return Key(part, _path(part, rest.removesuffix(".alpha")), "alpha")
    raise _unknown(name)


def _path(part: str, path: str) -> str:
    return path.replace(".processor", "") if part == UNET else path.removeprefix(TEXT_LEVEL)


def _unknown(name: str) -> Exception:
    return refusal(f"{shown(name)} is not a tensor of a LoRA in PEFT, diffusers or kohya layout.")
