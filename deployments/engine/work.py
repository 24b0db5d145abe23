"""What the policy knows of a request, and of what a step costs. No torch, no clock, no order of service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from core.types import Priority


class BatchKey(NamedTuple):
    """Requests with equal keys may share a UNet call; everything else may differ between them."""

    channels: int
    height: int
    width: int
    num_tokens: int
    context_dim: int
    added_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()


class StepCost(Protocol):
    """What a step costs; :class:`deployments.engine.cost.CostModel` learns it."""

    def step_ms(self, key: BatchKey, rows: float) -> float:
        """Duration of a step with ``rows`` UNet rows of this shape; more rows never take less."""

    def knee(self, key: BatchKey, max_rows: int) -> int:
        """The row count, at most ``max_rows``, beyond which more rows gain next to nothing."""

    def rows_for(self, key: BatchKey, max_rows: int, load: float) -> int:
        """The row count, at most the knee, that carries ``load``, a share of the best throughput."""


@dataclass(slots=True, eq=False)
class Work:
    """What the policy knows of a request.

    ``rows`` is reserved in every step; ``row_steps`` is what remains to compute, in plain UNet rows summed
    over the ``num_steps`` that remain, each costing ``row_ms`` of device time. ``peak_rows`` is the most
    that any one step costs, in the same rows. ``adapters`` have to be on the device in every step.
    ``promised_by`` is the clock time by which the request was promised to be done, None without a promise.
    ``tag`` is the user's virtual time at the request's first step, None while it is queued. ``number`` counts
    the requests of a scheduler, which breaks ties. ``moved`` is whether another engine had accepted it.
    """

    request_id: str
    user_id: str
    key: BatchKey
    priority: Priority
    rows: int
    num_steps: int
    row_steps: float
    row_ms: float
    arrived_at: float
    adapters: frozenset[str] = frozenset()
    tag: float | None = None
    peak_rows: float = 0.0
    promised_by: float | None = None
    number: int = 0
    moved: bool = False

    def __post_init__(self) -> None:
        self.peak_rows = max(self.peak_rows, self.rows)

    @property
    def remaining_ms(self) -> float:
        return self.row_steps * self.row_ms

    @property
    def rows_per_step(self) -> float:
        """What its steps cost on average, in plain UNet rows."""
        return self.row_steps / self.num_steps

    def advance(self, num_steps: int, row_steps: float) -> None:
        self.num_steps -= num_steps
        self.row_steps -= row_steps

    def copy(self) -> Work:
        """As ``dataclasses.replace``, which takes several times as long."""
        return Work(
            self.request_id,
            self.user_id,
            self.key,
            self.priority,
            self.rows,
            self.num_steps,
            self.row_steps,
            self.row_ms,
            self.arrived_at,
            self.adapters,
            self.tag,
            self.peak_rows,
            self.promised_by,
            self.number,
            self.moved,
        )
