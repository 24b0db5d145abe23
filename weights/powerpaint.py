"""PowerPaint's checkpoints (Zhuang et al. 2024, arXiv:2312.03594): learned task tokens, in two layouts.

v1 is a 9-channel UNet and a text encoder with 30 more rows in its token embedding; v2 is a BrushNet and a
second text encoder with those rows, beside an untouched Stable Diffusion 1.x. Knows files; not networks
beside the UNet, nor what a task means. Heavy imports happen inside the loaders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weights.describe import read_config
from weights.errors import BrokenWeights, RefusedWeights
from weights.tensor_file import read_tensors

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Tensor
    from transformers import CLIPTextModel, CLIPTokenizer

# In the order of their rows, which follow the vocabulary: ten each.
TASK_TOKENS = ("P_ctxt", "P_shape", "P_obj")
VECTORS_PER_TOKEN = 10

V1_UNET = Path("unet/unet.safetensors")
V1_TEXT_ENCODER = Path("text_encoder/text_encoder.safetensors")
V2_BRUSHNET = Path("diffusion_pytorch_model.safetensors")
V2_TEXT_ENCODER = Path("text_encoder.safetensors")

_EMBEDDING = "embeddings.token_embedding"
_INPAINTING_CHANNELS = 9
_CONDITIONING_CHANNELS = 5


@dataclass(frozen=True, eq=False)
class BrushNetWeights:
    """A branch's configuration and its tensors by name, in the file's precision."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]


def words_of(task_token: str) -> str:
    """A task token as the tokenizer reads it: one word for each of its vectors."""
    return " ".join(f"{task_token}_{index}" for index in range(VECTORS_PER_TOKEN))


def has_task_tokens(tokenizer: Any) -> bool:
    """Whether ``tokenizer`` knows the task tokens, so that its text encoder has their vectors."""
    known = tokenizer.get_added_vocab()
    return all(word in known for token in TASK_TOKENS for word in words_of(token).split())


def is_v2(folder: Path) -> bool:
    """Whether the release in ``folder`` is a branch (v2) and not a UNet (v1). BrokenWeights if neither."""
    if (folder / V2_BRUSHNET).exists():
        return True
    if (folder / V1_UNET).exists():
        return False
    raise BrokenWeights(f"{folder} holds no PowerPaint: neither {V2_BRUSHNET} nor {V1_UNET}.")


def load_text(
    weights: Path, encoder_folder: Path, tokenizer_folder: Path
) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """A text encoder with task tokens and its tokenizer, float32 on the CPU, in evaluation mode.

    ``weights`` holds the learned vectors as ``token_embedding.trainable_embeddings.P_obj`` and so on, as
    both releases do, or as the last 30 rows of an ordinary ``token_embedding.weight``. The two folders are
    those of the plain text encoder (its ``config.json``) and of the plain tokenizer. Raises
    :class:`RefusedWeights` when the file is no safetensors file or does not fit them.
    """
    from transformers import AddedToken, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tensors = _folded(_read(weights), weights.name)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    words = [word for token in TASK_TOKENS for word in words_of(token).split()]
    # As written, not lower-cased: no ordinary prompt can meet them.
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False) for word in words])
    config = CLIPTextConfig(**{**read_config(encoder_folder / "config.json"), "vocab_size": len(tokenizer)})
    return tokenizer, _filled(CLIPTextModel(config), tensors, weights.name)


def load_v1_unet(folder: Path, config_folder: Path) -> UNet2DConditionModel:
    """The 9-channel UNet of a v1 release, float32 on the CPU; ``config_folder`` is its family's UNet's."""
    from diffusers import UNet2DConditionModel

    config = {**read_config(config_folder / "config.json"), "in_channels": _INPAINTING_CHANNELS}
    return _filled(UNet2DConditionModel.from_config(config), _read(folder / V1_UNET), V1_UNET.name)


def load_v1_text(folder: Path, base: Path) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """The text encoder of a v1 release; ``base`` is a diffusers folder of the plain family."""
    return load_text(folder / V1_TEXT_ENCODER, base / "text_encoder", base / "tokenizer")


def load_v2_text(folder: Path, base: Path) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """The branch's text encoder of a v2 release, whose ``pytorch_model.bin`` was converted to safetensors."""
    return load_text(folder / V2_TEXT_ENCODER, base / "text_encoder", base / "tokenizer")


def load_extended_text(folder: Path) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Both of a diffusers folder whose own tokenizer and text encoder have the task tokens, as above."""
    import torch
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    encoder = CLIPTextModel.from_pretrained(
        folder / "text_encoder", dtype=torch.float32, local_files_only=True
    )
    return tokenizer, encoder.eval().requires_grad_(False)


def load_brushnet(folder: Path, base: Path) -> BrushNetWeights:
    """The branch of a v2 release, to be built by ``deployments.engine.brushnet``.

    A release without ``config.json`` has the architecture of the UNet that it goes with: that of the
    diffusers folder ``base``.
    """
    own = folder / "config.json"
    if own.exists():
        config = read_config(own)
    else:
        config = {
            **read_config(base / "unet" / "config.json"),
            "conditioning_channels": _CONDITIONING_CHANNELS,
        }
    return BrushNetWeights(config, _read(folder / V2_BRUSHNET))


def _folded(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of an ordinary CLIP text model, the learned vectors among its embedding's rows."""
    import torch

    plain = {key.removeprefix("text_model."): value for key, value in tensors.items()}
    plain.pop("embeddings.position_ids", None)
    if (vocabulary := plain.pop(f"{_EMBEDDING}.wrapped.weight", None)) is not None:
        rows = [vocabulary]
        for token in TASK_TOKENS:
            learned = plain.pop(f"{_EMBEDDING}.trainable_embeddings.{token}", None)
            if learned is None or len(learned) != VECTORS_PER_TOKEN:
                raise RefusedWeights(f"{name} is refused: it has no {VECTORS_PER_TOKEN} vectors of {token}.")
            rows.append(learned)
        plain[f"{_EMBEDDING}.weight"] = torch.cat(rows)
    return plain


def _filled(model: Any, tensors: Mapping[str, Tensor], name: str) -> Any:
    try:
        model.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise RefusedWeights(f"{name} is refused: its tensors are not those of this model family.") from error
    return model.float().eval().requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if not path.is_file():
        raise BrokenWeights(f"Model file {path} is missing.")
    read_tensors(path)
    return load_file(path)
