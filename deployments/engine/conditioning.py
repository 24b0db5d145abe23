"""Which UNet row belongs to which member of a batch, and what conditions each row.

Knows the requests' conditioning tensors; does not know latents, samplers or the UNet itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from deployments.engine.branch import Branch, BranchSum, Residuals
from deployments.engine.lora import LoraFactors
from deployments.engine.request import FEW_STEP, DenoiseRequest
from deployments.engine.transfer import place

_NO_FACTORS: Mapping[str, LoraFactors] = MappingProxyType({})


class MemberRows(NamedTuple):
    """The rows of ``member`` in a step: two if ``guided``; ``branch`` is the one that acts on them."""

    member: int
    guided: bool
    branch: str | None


class Layout:
    """The rows of one UNet call and their conditioning, for as long as neither changes.

    ``member`` ``[rows]`` is the row's member, ``cond`` and ``uncond`` the rows of each of ``chosen``
    members (None where none is guided), ``extra`` the channels that follow the latents. ``adapters`` are
    each row's, ids and weights, and ``factors`` theirs.
    """

    def __init__(
        self,
        requests: Sequence[DenoiseRequest],
        rows: Sequence[MemberRows],
        dtype: torch.dtype,
        device: torch.device,
        factors: Mapping[str, LoraFactors] = _NO_FACTORS,
    ) -> None:
        member: list[int] = []
        cond: list[int] = []
        uncond: list[int] = []
        context: list[Tensor] = []
        added: list[Mapping[str, Tensor]] = []
        for index, guided, _ in rows:
            request = requests[index]
            uncond.append(len(member))
            if guided:
                assert request.negative_embeds is not None
                member.append(index)
                context.append(request.negative_embeds)
                added.append(_unconditional(request))
            cond.append(len(member))
            member.append(index)
            context.append(request.prompt_embeds)
            added.append(request.added_conditions)
        self.member = place(torch.tensor(member), device)
        self.chosen = place(torch.tensor([index for index, *_ in rows]), device)
        self.cond = place(torch.tensor(cond), device)
        self.uncond = place(torch.tensor(uncond), device) if any(each.guided for each in rows) else None
        self.context = place(torch.stack(context), device, dtype)
        self.added = _stacked_conditions(added, dtype, device)
        extra = [channels for index in member if (channels := requests[index].extra_channels) is not None]
        self.extra = _stacked_maps(extra, dtype, device) if extra else None
        self.calls = branch_calls(requests, rows, dtype, device)
        self.adapters = [_adapters_of(requests[index]) for index in member]
        self.factors = factors


def _adapters_of(request: DenoiseRequest) -> list[tuple[str, float]]:
    own = [(FEW_STEP, 1.0)] if request.few_step else []
    return own + [(use.adapter_id, use.weight) for use in request.adapters]


@dataclass(frozen=True, eq=False)
class BranchCall:
    """One call of branch ``name``: the UNet rows it serves, ``[calls]``, None for all, and their inputs."""

    name: str
    rows: Tensor | None
    num_rows: int
    context: Tensor
    conditioning: Tensor
    added: dict[str, Tensor] | None
    scale: Tensor


class _BranchRow(NamedTuple):
    """What a branch is given for the UNet row ``place``."""

    place: int
    text: Tensor
    conditioning: Tensor
    added: Mapping[str, Tensor]
    scale: float


def branch_calls(
    requests: Sequence[DenoiseRequest],
    rows: Sequence[MemberRows],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[BranchCall, ...]:
    """The calls of a step: one for each branch, more only where its prompts differ in length."""
    if all(each.branch is None for each in rows):
        return ()
    groups: dict[tuple[str, torch.Size], list[_BranchRow]] = {}
    num_rows = 0
    for index, guided, name in rows:
        request = requests[index]
        asked = request.branch
        if name is not None:
            assert asked is not None
            prompt = request.prompt_embeds if asked.prompt_embeds is None else asked.prompt_embeds
            texts, added = [prompt], [request.added_conditions]
            if guided:
                negative = request.negative_embeds if asked.negative_embeds is None else asked.negative_embeds
                assert negative is not None
                texts, added = [negative, prompt], [_unconditional(request), request.added_conditions]
            group = groups.setdefault((name, prompt.shape), [])
            for row, (text, own) in enumerate(zip(texts, added, strict=True), start=num_rows):
                group.append(_BranchRow(row, text, asked.conditioning, own, asked.scale))
        num_rows += 2 if guided else 1
    calls = []
    for (name, _), group in groups.items():
        places = [row.place for row in group]
        calls.append(
            BranchCall(
                name,
                None if len(places) == num_rows else place(torch.tensor(places), device),
                num_rows,
                place(torch.stack([row.text for row in group]), device, dtype),
                _stacked_maps([row.conditioning for row in group], dtype, device),
                _stacked_conditions([row.added for row in group], dtype, device),
                place(torch.tensor([row.scale for row in group]), device, dtype)[:, None, None, None],
            )
        )
    return tuple(calls)


def residuals_of(
    calls: Sequence[BranchCall], branches: Mapping[str, Branch], sample: Tensor, timestep: Tensor
) -> BranchSum:
    """What the branches add to the rows of ``sample``; rows without a branch get zeros."""
    parts: dict[str, list[tuple[BranchCall, Residuals]]] = {"skip": [], "stream": []}
    for call in calls:
        branch = branches[call.name]
        own, at = sample, timestep
        if call.rows is not None:
            own, at = sample.index_select(0, call.rows), timestep.index_select(0, call.rows)
        residuals = branch(own, at, call.context, call.conditioning, call.added)
        # Scaled at once: what a recording returned is gone when the next one is played.
        scaled = Residuals.of([each * call.scale for each in residuals.tensors], len(residuals.down))
        parts[branch.style].append((call, scaled))
    return BranchSum(**{style: _scattered(own) for style, own in parts.items()})


def _scattered(parts: Sequence[tuple[BranchCall, Residuals]]) -> Residuals | None:
    if not parts:
        return None
    calls = [call for call, _ in parts]
    every = zip(*(residuals.tensors for _, residuals in parts), strict=True)
    return Residuals.of([_scatter(calls, of_place) for of_place in every], len(parts[0][1].down))


def _scatter(calls: Sequence[BranchCall], residuals: Sequence[Tensor]) -> Tensor:
    """The residuals of one place as rows of the whole batch."""
    if calls[0].rows is None:
        return residuals[0]
    shape = (calls[0].num_rows, *residuals[0].shape[1:])
    whole = torch.empty(
        shape, dtype=residuals[0].dtype, device=residuals[0].device, memory_format=torch.channels_last
    ).zero_()
    for call, residual in zip(calls, residuals, strict=True):
        assert call.rows is not None
        whole.index_copy_(0, call.rows, residual)
    return whole


def _unconditional(request: DenoiseRequest) -> Mapping[str, Tensor]:
    """The added conditions of the request's row without its prompt."""
    return {**request.added_conditions, **request.negative_added_conditions}


def _stacked_conditions(
    rows: Sequence[Mapping[str, Tensor]], dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor] | None:
    stacked = {name: place(torch.stack([row[name] for row in rows]), device, dtype) for name in rows[0]}
    return stacked or None


def _stacked_maps(maps: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    return place(torch.stack(list(maps)), device, dtype, torch.channels_last)
