"""Loads what sees: a model's CLIPSeg, which holds a whole CLIP, its tokenizer, and how it wants its pictures.

Knows the registry's parts and the file of preprocessing; nothing of requests. Heavy imports happen inside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weights import registry
from weights.errors import BrokenWeights

if TYPE_CHECKING:
    from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

PART = "clipseg"
_PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True, slots=True)
class PreprocessFacts:
    """How a picture becomes the network's input: resized to a square of ``size`` pixels, RGB from 0 to 1,
    less ``mean``, divided by ``std``, per channel.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load_perception(
    model_id: str, manifest: Path = registry.MANIFEST
) -> tuple[CLIPTokenizer, CLIPSegForImageSegmentation, PreprocessFacts]:
    """Tokenizer, network (float32 on the CPU, in evaluation mode) and preprocessing of a model's ``clipseg``.

    A checkpoint without a tokenizer of its own shares the model's.

    Raises:
        NotInstalled: when neither the model nor a companion of its family has the part.
        BrokenWeights: when its files are missing or not the listed ones.
    """
    import torch
    from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

    folder = registry.part_folder(model_id, PART, manifest)
    own = (folder / "tokenizer.json").exists() or (folder / "vocab.json").exists()
    words = folder if own else registry.part_folder(model_id, "tokenizer", manifest)
    tokenizer = CLIPTokenizer.from_pretrained(words, local_files_only=True)
    network: CLIPSegForImageSegmentation = CLIPSegForImageSegmentation.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    return tokenizer, network.eval().requires_grad_(False), preprocess_facts(folder / _PREPROCESSOR)


def preprocess_facts(path: Path) -> PreprocessFacts:
    """The facts of a ``preprocessor_config.json`` of CLIP's layout, old (a number) or new (height and width).

    Raises :class:`BrokenWeights` when it is missing or says something else.
    """
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
        size = config["size"]
        if isinstance(size, dict):
            height = size.get("height", size.get("shortest_edge"))
            if height != size.get("width", height):
                raise BrokenWeights(f"{path} asks for pictures that are not square.")
            size = height
        mean, std = (tuple(map(float, config[key])) for key in ("image_mean", "image_std"))
        if len(mean) != 3 or len(std) != 3:
            raise BrokenWeights(f"{path} does not speak of three channels.")
        return PreprocessFacts(int(size), mean, std)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenWeights(f"{path} is missing or not a preprocessor_config.json.") from error
