"""A UNet of which only low-rank changes of its layers are trained (LoRA, Hu et al. 2022), and their file.

The changes are added to the weights, not to the layers' outputs, so a step costs what training the whole
UNet would. Knows layers and files; nothing of what is trained for.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from weights.adapters import AdapterWeights, LoraLayer, read_adapter, unet_factors

# As in LCM-LoRA (Luo et al. 2023): every layer between the first and the last convolution.
TARGETS: Final = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
    "conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
)  # fmt: skip


def targets(network: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """The layers that are changed, with their paths."""
    for path, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and any(path.endswith(f".{end}") for end in TARGETS):
            yield path, layer


class LowRankStudent(nn.Module):
    """``network`` with trainable factors; ``others`` are frozen networks that move along with it.

    Its parameters are the factors alone: ``down`` ``[rank, in, …]``, small and random, and ``up``
    ``[out, rank]``, zero at first, named by their layer's path with slashes.
    """

    def __init__(self, network: nn.Module, rank: int, others: Mapping[str, nn.Module]) -> None:
        super().__init__()
        # Tuples, not attributes that nn.Module would look at: what is frozen is no part of the state.
        self._frozen = (network, dict(others))
        for each in (network, *others.values()):
            each.requires_grad_(False)
        self._paths = []
        for path, layer in targets(network):
            self._paths.append(path)
            out, inner = len(layer.weight), layer.weight[0].numel()
            down = torch.empty(min(rank, out, inner), *layer.weight.shape[1:]).normal_(0, inner**-0.5)
            self.register_parameter(_key(path, "down"), nn.Parameter(down))
            self.register_parameter(_key(path, "up"), nn.Parameter(torch.zeros(out, len(down))))

    def other(self, name: str) -> nn.Module:
        """One of the frozen networks."""
        return self._frozen[1][name]

    def forward(self, *inputs: Tensor) -> Tensor:
        """The changed network's ``sample``."""
        network = self._frozen[0]
        changed = {f"{path}.weight": self._changed(path) for path in self._paths}
        sample: Tensor = functional_call(network, changed, inputs).sample
        return sample

    def _changed(self, path: str) -> Tensor:
        weight = self._frozen[0].get_parameter(f"{path}.weight")
        down, up = (self.get_parameter(_key(path, side)) for side in ("down", "up"))
        if weight.ndim == 2:
            return weight + up @ down
        # Channels last, as the convolutions are.
        _, inner, height, width = weight.shape
        change = (up @ down.permute(0, 2, 3, 1).reshape(len(down), -1)).view(-1, height, width, inner)
        return weight + change.permute(0, 3, 1, 2)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "LowRankStudent":
        for each in (self._frozen[0], *self._frozen[1].values()):
            each._apply(function)
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        return self


def adapter_of(parameters: Mapping[str, Tensor], facts: Mapping[str, str]) -> AdapterWeights:
    """The factors of a :class:`LowRankStudent` as a float16 adapter."""
    layers = {}
    for name in parameters:
        path, side = name.replace("/", ".").rsplit(".", 1)
        if side == "down":
            down, up = parameters[name], parameters[_key(path, "up")]
            up = up.view(*up.shape, *[1] * (down.ndim - 2))
            layers[path] = LoraLayer(down.half().contiguous(), up.half().contiguous(), float(len(down)))
    return AdapterWeights(layers, {}, dict(facts))


def merge(network: nn.Module, file: Path) -> nn.Module:
    """Add an adapter file's changes to the weights of ``network``, in place."""
    with torch.no_grad():
        for path, (down, up) in unet_factors(read_adapter(file.read_bytes())).items():
            weight = network.get_submodule(path).get_parameter("weight")
            weight.add_((up.flatten(1) @ down.flatten(1)).view_as(weight))
    return network


def _key(path: str, side: str) -> str:
    return f"{path}.{side}".replace(".", "/")
