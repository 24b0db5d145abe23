"""The attribute classifier: what a picture shows, judged independently of the generator.

Knows its network, its labels and its file; nothing about training or about how pictures are made.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weights.recipe.scenes import ATTRIBUTE_VALUES, Record

SIZE: Final = 64
WEIGHTS: Final = Path(__file__).with_name("classifier.safetensors")
KEYS: Final = (
    "subject", "look", "background", "skin", "hair_color", "beard", "glasses", "clothes_color", "expression",
    "color",
)  # fmt: skip
UNKNOWN: Final = -100
# (channels, stride) of the 3 x 3 convolutions; 64 pixels become 4.
LAYERS: Final = ((24, 2), (48, 2), (48, 1), (96, 2), (96, 1), (96, 2))
HIDDEN: Final = 128


def shown(record: Record) -> dict[str, str]:
    """The facts of `KEYS` that a picture of the record shows, with what its look leaves out.

    A portrait without a word on beard or glasses has none. The night colours of planets have the
    names of other backgrounds, so a planet's background is left out.
    """
    facts = {key: value for key, value in record.labels().items() if key in KEYS}
    if record.subject == "planet":
        facts.pop("background", None)
    return {"beard": "no", "glasses": "no", **facts} if record.look else facts


def labels(records: Sequence[Record]) -> dict[str, Tensor]:
    """Class index [B] of every key; `UNKNOWN` where the picture does not show it."""
    facts = [shown(record) for record in records]
    return {
        key: torch.tensor(
            [ATTRIBUTE_VALUES[key].index(fact[key]) if key in fact else UNKNOWN for fact in facts]
        )
        for key in KEYS
    }


def shrink(pictures: Tensor) -> Tensor:
    """Average uint8 pictures [B, H, W, 3] down to [B, 3, 64, 64] in [-1, 1], the classifier's input.

    H and W must be multiples of 64.
    """
    floats = pictures.permute(0, 3, 1, 2).float().div(127.5).sub(1)
    return F.avg_pool2d(floats, (floats.shape[2] // SIZE, floats.shape[3] // SIZE))


class AttributeClassifier(nn.Module):
    """A small convolutional network with one linear head per key."""

    def __init__(self, layers: Sequence[tuple[int, int]] = LAYERS, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, layers[0][0], 3, layers[0][1], padding=1)
        self.convs = nn.ModuleList(
            nn.Conv2d(inner, out, 3, stride, padding=1) for (inner, _), (out, stride) in pairwise(layers)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(channels // 8, channels) for channels, _ in layers)
        side = SIZE
        for _, stride in layers:
            side //= stride
        self.pool = nn.Linear(layers[-1][0] * side * side, hidden)
        self.heads = nn.ModuleDict({key: nn.Linear(hidden, len(ATTRIBUTE_VALUES[key])) for key in KEYS})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits [B, classes] of every key for pictures [B, 3, 64, 64] in [-1, 1]."""
        x = pictures.to(memory_format=torch.channels_last)
        for conv, norm in zip([self.conv_in, *self.convs], self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        features = F.relu(self.pool(x.flatten(1)))
        return {key: head(features) for key, head in self.heads.items()}

    def loss(self, pictures: Tensor, wanted: Mapping[str, Tensor]) -> Tensor:
        """Sum over the keys of the cross-entropy of the pictures that show the key."""
        logits = self(pictures)
        losses = [
            F.cross_entropy(logits[key].float(), indices, ignore_index=UNKNOWN)
            for key, indices in wanted.items()
            if bool((indices != UNKNOWN).any())
        ]
        return torch.stack(losses).sum()

    @torch.inference_mode()
    def classify(self, pictures: Tensor, batch: int = 100) -> list[dict[str, str]]:
        """The likeliest value of every key for uint8 pictures [N, H, W, 3], whether it applies or not."""
        found: list[dict[str, str]] = []
        for part in torch.split(pictures, batch):
            chosen = {key: row.argmax(1).tolist() for key, row in self(shrink(part)).items()}
            found += [
                {key: ATTRIBUTE_VALUES[key][chosen[key][row]] for key in KEYS} for row in range(len(part))
            ]
        return found


def save(model: AttributeClassifier, path: Path) -> None:
    """Write the weights as float16 safetensors."""
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, path)


def load(path: Path = WEIGHTS) -> AttributeClassifier:
    """The trained classifier, float32, for evaluation.

    Raises `FileNotFoundError` without the file and `RuntimeError` when it is of another network.
    """
    model = AttributeClassifier()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return model.eval().requires_grad_(False)
