"""Linear and convolution layers to which every row of a batch adds low-rank factors of its own.

LoRA (Hu et al. 2021, arXiv:2106.09685): ``y + B A x``. Knows one layer and its factors in all slots; does
not know adapters, who uses which, or when slots are free.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import InvalidRequest
from deployments.engine.packed_layers import PackedConv2d, PackedLinear
from deployments.engine.row_threads import current_rows
from deployments.engine.transfer import place


class Gate:
    """Whether the adapters act just now. One for all layers of a network."""

    def __init__(self) -> None:
        self.open = False


class LayerSlots:
    """The factors of one layer in every slot, and those gathered for the rows of the coming calls.

    The slots are lines ``[slots * rank, …]`` so that one index gathers any stack of any rows: ``downs``
    of ``in`` (times the kernel) values and ``ups`` of ``out``. Gathered: ``down`` ``[rows, width, in]``,
    for a kernel ``[rows, width, in, kh, kw]``, and ``up`` ``[rows, width, out]`` times the rows' weights.
    ``down`` is None while no row has factors here.

    ``kept`` are factors that need no slot, as they lie in the layer, ``down`` ``[rank, in, …]`` and ``up``
    ``[rank, out]``; the rows use them times ``scale``, None while none does. While a weight has them in it
    it is *folded*, and they are not added.

    Once there is :meth:`room`, what is gathered lies at its beginning, whoever the rows are.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, num_slots: int, max_rank: int, gate: Gate) -> None:
        weight = layer.weight
        self.gate, self.max_rank = gate, max_rank
        self._line: torch.Size = weight.shape[1:]
        self._weight = weight
        self._num_lines = num_slots * max_rank
        # From the first adapter on: most layers of a convolutional network never have one.
        self._downs = self._ups = weight.new_empty(0)
        self._room: tuple[Tensor, Tensor] | None = None
        self.kept: tuple[Tensor, Tensor] | None = None
        self.scale: Tensor | float | None = None
        self.filled: set[int] = set()
        self.down: Tensor | None = None
        self.up: Tensor | None = None

    def fill(self, slot: int, down: Tensor, up: Tensor) -> None:
        """Put factors into a slot, ``down`` ``[rank, …]`` and ``up`` ``[out, rank, …]``."""
        if not self.has_slots:
            self._downs = self._weight.new_zeros(self._num_lines, self._line.numel())
            self._ups = self._weight.new_zeros(self._num_lines, len(self._weight))
        self.clear(slot)
        rank, start, device = len(down), slot * self.max_rank, self._weight.device
        self._downs[start : start + rank].copy_(place(down, device).reshape(rank, -1))
        self._ups[start : start + rank].copy_(place(up, device).reshape(len(up), rank).T)
        self.filled.add(slot)

    @property
    def has_slots(self) -> bool:
        """Whether an adapter has ever been here."""
        return self._downs.numel() > 0

    def room(self, num_lines: int) -> None:
        """Gather into memory that stays where it is, enough for ``num_lines`` lines of all rows together."""
        sizes = self._line.numel(), len(self._weight)
        down, up = (self._weight.new_zeros(num_lines, size) for size in sizes)
        self._room = down, up

    def clear(self, slot: int) -> None:
        if slot in self.filled:
            lines = slice(slot * self.max_rank, (slot + 1) * self.max_rank)
            self._downs[lines] = 0
            self._ups[lines] = 0
            self.filled.discard(slot)

    def keep(self, down: Tensor, up: Tensor) -> None:
        """Have factors at hand for any row, ``down`` ``[rank, …]`` and ``up`` ``[out, rank, …]``."""
        down = down.to(self._weight)
        if down.ndim == 4 and self._weight.is_contiguous(memory_format=torch.channels_last):
            down = down.contiguous(memory_format=torch.channels_last)
        self.kept = down, up.reshape(len(up), -1).T.to(self._weight).contiguous()

    def gather(self, lines: Tensor, weights: Tensor) -> None:
        """Take ``lines`` ``[rows, width]`` of the slots, for as long as these rows are called."""
        rows, width = lines.shape
        flat = lines.flatten()
        if self._room is None:
            down, up = self._downs.index_select(0, flat), self._ups.index_select(0, flat)
        else:
            down, up = (each[: len(flat)] for each in self._room)
            torch.index_select(self._downs, 0, flat, out=down)
            torch.index_select(self._ups, 0, flat, out=up)
        is_kernel = math.prod(self._line[1:]) > 1
        self.down = down.view(rows, width, *self._line) if is_kernel else down.view(rows, width, -1)
        self.up = up.view(rows, width, -1).mul_(weights.to(up.dtype)[:, :, None])

    def release(self) -> None:
        self.down = self.up = self.scale = None

    def acts(self, folded: bool) -> bool:
        """Whether rows of the call under way have factors here, beside those in a ``folded`` weight."""
        return self.gate.open and (self.down is not None or self._adds_kept(folded))

    def gathered(self) -> tuple[Tensor, Tensor] | None:
        """``down`` and ``up`` of the rows that this thread computes."""
        down, up, rows = self.down, self.up, current_rows()
        if down is None or up is None:
            return None
        return (down, up) if rows is None else (down[rows], up[rows])

    def added(self, folded: bool) -> tuple[Tensor, Tensor] | None:
        """The kept factors, where they are to be added to what a weight gives."""
        return self.kept if self._adds_kept(folded) else None

    def scaled(self, inner: Tensor) -> Tensor:
        """``inner`` ``[rows, n, rank]`` of the kept factors, times the weights of this thread's rows."""
        if not isinstance(self.scale, Tensor):
            return inner
        rows = current_rows()
        return inner * (self.scale if rows is None else self.scale[rows]).to(inner.dtype)

    def _adds_kept(self, folded: bool) -> bool:
        return self.kept is not None and self.scale is not None and not folded


class LoraLinear(nn.Linear):
    """``nn.Linear`` over ``[rows, …, in]`` with the gathered factors of each row on top."""

    lora: LayerSlots

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        folded = self._is_folded()
        if not self.lora.acts(folded):
            return output
        rows = input.reshape(len(input), -1, self.in_features)
        gathered, kept = self.lora.gathered(), self.lora.added(folded)
        if gathered is not None:
            down, up = gathered
            output.view(len(input), -1, self.out_features).baddbmm_(torch.bmm(rows, down.mT), up)
        if kept is not None:
            inner = self.lora.scaled(F.linear(rows, kept[0]))
            output.view(-1, self.out_features).addmm_(inner.flatten(0, 1), kept[1])
        return output

    def adapts(self, folded: bool) -> bool:
        """Whether rows of the call under way have factors on top of a weight that is ``folded`` or not."""
        return self.lora.acts(folded)

    def _is_folded(self) -> bool:
        return False


class LoraConv2d(nn.Conv2d):
    """``nn.Conv2d`` over ``[rows, channels, h, w]`` with the gathered factors of each row on top."""

    lora: LayerSlots

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        folded = self._is_folded(input)
        if not self.lora.acts(folded):
            return output
        gathered, kept = self.lora.gathered(), self.lora.added(folded)
        if gathered is not None:
            down, up = gathered
            self._add(
                output, self._pointwise(input, down) if down.ndim == 3 else self._grouped(input, down), up
            )
        if kept is not None:
            inner = F.conv2d(input, kept[0], None, self.stride, self.padding, self.dilation)
            inner = self.lora.scaled(inner.flatten(2).mT)
            self._add(output, inner, kept[1].expand(len(inner), -1, -1))
        return output

    def _is_folded(self, input: Tensor) -> bool:
        return False

    def _add(self, output: Tensor, inner: Tensor, up: Tensor) -> None:
        """Add ``inner @ up``, ``[rows, pixels, width]`` by ``[rows, width, out]``, in place."""
        if output.is_contiguous(memory_format=torch.channels_last):
            pixels = output.permute(0, 2, 3, 1)
            pixels.view(len(up), -1, self.out_channels).baddbmm_(inner, up)
        else:
            output.view(len(up), self.out_channels, -1).baddbmm_(up.mT, inner.mT)

    def _pointwise(self, input: Tensor, down: Tensor) -> Tensor:
        """``[rows, pixels, width]`` of a kernel of one pixel; in channels_last nothing is copied."""
        step_y, step_x = self.stride
        pixels = input[:, :, ::step_y, ::step_x].permute(0, 2, 3, 1)
        return torch.bmm(pixels.reshape(len(input), -1, self.in_channels), down.mT)

    def _grouped(self, input: Tensor, down: Tensor) -> Tensor:
        """The same of a larger kernel: the rows are groups of one convolution."""
        rows, width = down.shape[:2]
        grouped = input.contiguous().view(1, -1, *input.shape[2:])
        inner = F.conv2d(
            grouped,
            down.flatten(0, 1),
            None,
            self.stride,
            cast("tuple[int, int]", self.padding),
            self.dilation,
            groups=rows,
        )
        return inner.view(rows, width, -1).mT


class LoraPackedLinear(LoraLinear, PackedLinear):
    """The same over a packed weight."""

    def plus(self, input: Tensor, residual: Tensor) -> Tensor:
        if not self.lora.acts(self._is_folded()):
            return super().plus(input, residual)
        return self.forward(input).add_(residual)

    def _is_folded(self) -> bool:
        return self.packed.is_folded


class LoraPackedConv2d(LoraConv2d, PackedConv2d):
    """The same over a packed weight."""

    def plus(self, input: Tensor, residual: Tensor) -> Tensor:
        if not self.lora.acts(self._is_folded(input)):
            return super().plus(input, residual)
        return self.forward(input).add_(residual)

    def _is_folded(self, input: Tensor) -> bool:
        return self.packed.is_folded and self.takes(input)


_CARRIERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: LoraLinear,
    PackedLinear: LoraPackedLinear,
    nn.Conv2d: LoraConv2d,
    PackedConv2d: LoraPackedConv2d,
}
# A layer that another network over the same weights has switched is one already.
_KNOWN = {*_CARRIERS, *_CARRIERS.values()}


def is_target(layer: nn.Module) -> bool:
    """Whether a layer can carry factors."""
    if isinstance(layer, nn.Conv2d) and type(layer) in _KNOWN:
        pointwise = layer.kernel_size == (1, 1)
        plain = layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return plain and (not pointwise or layer.padding == (0, 0))
    return type(layer) in _KNOWN


def switch(layer: nn.Module, num_slots: int, max_rank: int, gate: Gate) -> LayerSlots:
    """Let a layer carry factors, in place: its parameters, their names and their memory stay as they are."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    slots = LayerSlots(layer, num_slots, max_rank, gate)
    # Not an attribute that ``nn.Module`` would look at: the slots are no part of the model's state.
    layer.__dict__["lora"] = slots
    layer.__class__ = _CARRIERS.get(type(layer), type(layer))  # type: ignore[assignment]
    return slots


def check_layer(path: str, layer: nn.Module, down: Tensor, up: Tensor, max_rank: int) -> None:
    """Raise InvalidRequest unless the factors are finite and of the layer's shape."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    weight, rank = layer.weight, len(down) if down.ndim else 0
    if not 1 <= rank <= max_rank:
        raise InvalidRequest(f"{path} has rank {rank}", field="adapters", limit=max_rank)
    expected = (torch.Size((rank, *weight.shape[1:])), torch.Size((len(weight), rank)))
    got = (down.shape, up.shape[:2])
    if got != expected or up.shape[2:].numel() != 1:
        shapes = " and ".join(str(list(each)) for each in (down.shape, up.shape))
        raise InvalidRequest(
            f"factors {shapes} do not fit {path}, which is {list(weight.shape)}", field="adapters"
        )
    for factor in (down, up):
        if not factor.is_floating_point() or not bool(torch.isfinite(factor).all()):
            raise InvalidRequest(f"the factors of {path} must be finite numbers", field="adapters")
