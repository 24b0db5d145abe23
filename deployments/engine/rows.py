"""The running batch: every request's latents stacked, one UNet call and one fused update per step.

Knows tensors and sampler tables; does not know users, deadlines, events or the order of service.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import GenerationFailed
from core.telemetry import log, logger
from deployments.engine.conditioning import Layout, MemberRows
from deployments.engine.network import Network
from deployments.engine.trajectory import Column, Trajectory
from deployments.engine.transfer import Fetch, place

_LOG = logger(__name__)


@dataclass(frozen=True, eq=False)
class Stepped:
    """A step that the device was given: whose call failed, and the latents of which members are finite."""

    failed: Mapping[Trajectory, GenerationFailed]
    members: tuple[Trajectory, ...] = ()
    finite: Fetch | None = None

    def faults(self) -> dict[Trajectory, GenerationFailed]:
        """Everybody who failed; the others are unharmed. Waits for the device."""
        faults = dict(self.failed)
        flags = [] if self.finite is None else self.finite.wait().tolist()
        for member, finite in zip(self.members, flags, strict=True):
            if not finite:
                faults[member] = GenerationFailed("the latents are not finite")
        return faults


class RunningBatch:
    """The trajectories of one batch key that advance together.

    Latent state is float32 ``[members, channels, h, w]``; it is re-stacked only when members change.
    A member has one UNet row, or two while it is guided.
    """

    def __init__(self, network: Network, dtype: torch.dtype, device: torch.device) -> None:
        self._network = network
        self._dtype = dtype
        self._device = device
        self.members: list[Trajectory] = []
        self.x = self.origin = self._x_prev = self._m_prev = torch.empty(0)
        self._layouts: dict[tuple[MemberRows, ...], Layout] = {}

    @property
    def num_rows(self) -> int:
        return sum(member.request.num_rows(member.step) for member in self.members)

    def pack(self, members: Collection[Trajectory]) -> None:
        """Make ``members`` the batch, in whatever order. Those who leave take their state with them."""
        if set(members) == set(self.members):
            return
        for index, member in enumerate(self.members):
            member.state = (self.x[index], self._x_prev[index], self._m_prev[index])
        self.members = list(members)
        self._layouts = {}
        if not members:
            return
        state = ([place(part, self._device) for part in member.state] for member in members)
        self.x, self._x_prev, self._m_prev = (torch.stack(parts) for parts in zip(*state, strict=True))
        length = max(len(member.coefficients) for member in members)
        padded = [
            F.pad(member.coefficients, (0, 0, 0, length - len(member.coefficients))) for member in members
        ]
        self._table = place(torch.stack(padded), self._device)
        self._step = place(torch.tensor([member.step for member in members]), self._device)
        self._members = torch.arange(len(members), device=self._device)
        self._masking = _Masking.of(self.members, self._device)

    def step(self) -> Stepped:
        """Advance every member by one step. Does not wait for the device.

        When the UNet call raises, each member tries alone, so that only the culprit fails.
        """
        faults: dict[Trajectory, GenerationFailed] = {}
        try:
            output = self.predict()
        except Exception as error:  # whatever the model or the device raises
            outputs = self._predict_alone(error, faults)
            self.pack([member for member in self.members if member not in faults])
            if not outputs:
                return Stepped(faults)
            output = torch.cat(outputs)
        self.advance(output)
        return Stepped(faults, tuple(self.members), Fetch(self.x.isfinite().flatten(1).all(1)))

    def predict(self, members: Sequence[int] | None = None) -> Tensor:
        """Guided model output, float32 ``[members, channels, h, w]``, of all or some of the members."""
        chosen = range(len(self.members)) if members is None else members
        layout = self._layout(tuple(self._rows_of(index) for index in chosen))
        now = self._table[self._members, self._step]
        scaled = self.x * _per_member(now, Column.K)
        sample = scaled.index_select(0, layout.member).to(self._dtype, memory_format=torch.channels_last)
        timestep = now[:, Column.TIMESTEP].index_select(0, layout.member)
        output = self._network(sample, timestep, layout).float()
        cond = output.index_select(0, layout.cond)
        if layout.uncond is None:
            return cond
        uncond = output.index_select(0, layout.uncond)
        scale = _per_member(now, Column.SCALE).index_select(0, layout.chosen)
        return torch.lerp(uncond, cond, scale)

    def advance(self, m: Tensor) -> None:
        """Take every member one step on, given the guided model output of all."""
        now = self._table[self._members, self._step]
        a, b, c, d = (_per_member(now, column) for column in (Column.A, Column.B, Column.C, Column.D))
        self.origin = _per_member(now, Column.ORIGIN_X) * self.x + _per_member(now, Column.ORIGIN_M) * m
        x = a * self.x + b * m + c * self._x_prev + d * self._m_prev
        noise = self._noise()
        if noise is not None:
            x += _per_member(now, Column.S) * noise
        if self._masking is not None:
            x = self._masking.blend(x, now)
        self.x, self._x_prev, self._m_prev = x, self.x, m
        self._step += 1
        for member in self.members:
            member.step += 1

    def _predict_alone(self, error: Exception, faults: dict[Trajectory, GenerationFailed]) -> list[Tensor]:
        outputs = []
        for index, member in enumerate(self.members):
            try:
                if len(self.members) == 1:
                    raise error
                outputs.append(self.predict([index]))
            except Exception as fault:
                log(_LOG, logging.ERROR, "denoise step failed", error=type(fault).__name__, detail=str(fault))
                faults[member] = GenerationFailed("the model failed on this picture")
        return outputs

    def latents_of(self, member: Trajectory) -> Fetch:
        """The member's latents."""
        return Fetch(self.x[self.members.index(member)])

    def origin_of(self, member: Trajectory) -> Fetch:
        """The noise-free latents that the member's last step predicted."""
        return Fetch(self.origin[self.members.index(member)])

    def _noise(self) -> Tensor | None:
        drawn = [member.step_noise() for member in self.members]
        if all(noise is None for noise in drawn):
            return None
        zeros = torch.zeros(self.x.shape[1:])
        return place(torch.stack([zeros if noise is None else noise for noise in drawn]), self._device)

    def _rows_of(self, index: int) -> MemberRows:
        request, step = self.members[index].request, self.members[index].step
        return MemberRows(index, request.guided(step), request.branch_at(step))

    def _layout(self, rows: tuple[MemberRows, ...]) -> Layout:
        layout = self._layouts.get(rows)
        if layout is None:
            requests = [member.request for member in self.members]
            factors = {name: each for member in self.members for name, each in member.adapters.items()}
            layout = self._layouts[rows] = Layout(requests, rows, self._dtype, self._device, factors)
        return layout


class _Masking:
    """Keeps the source outside the masks, as diffusers' ``StableDiffusionInpaintPipeline`` does."""

    def __init__(self, mask: Tensor, source: Tensor, noise: Tensor) -> None:
        self._mask, self._source, self._noise = mask, source, noise

    @classmethod
    def of(cls, members: Sequence[Trajectory], device: torch.device) -> _Masking | None:
        """None where no member has a mask; members without one denoise everything."""
        requests = [member.request for member in members]
        if all(request.mask is None for request in requests):
            return None
        shape = requests[0].noise.shape
        masks = [torch.ones(1, *shape[1:]) if r.mask is None else r.mask for r in requests]
        sources = [torch.zeros(shape) if r.mask is None or r.source is None else r.source for r in requests]
        noises = [r.noise for r in requests]
        mask, source, noise = (
            place(torch.stack(parts), device).float() for parts in (masks, sources, noises)
        )
        return cls(mask, source, noise)

    def blend(self, x: Tensor, now: Tensor) -> Tensor:
        known = _per_member(now, Column.KEEP) * self._source + _per_member(now, Column.RENOISE) * self._noise
        return torch.lerp(known, x, self._mask)


def _per_member(now: Tensor, column: Column) -> Tensor:
    return now[:, column, None, None, None]
