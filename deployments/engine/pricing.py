"""What a request costs, in the terms of the policy: from a request and the cost model to its work."""

from __future__ import annotations

from deployments.engine.cost import CostModel
from deployments.engine.request import DenoiseRequest
from deployments.engine.work import Work


def work_of(
    request: DenoiseRequest,
    now: float,
    cost: CostModel,
    max_rows: int,
    adapters: frozenset[str] = frozenset(),
) -> Work:
    """What the scheduler needs to know of a request that arrives ``now``; ``adapters`` are those that act."""
    steps = range(request.first_step, request.num_inference_steps)
    costs = [cost_rows(request, step, cost) for step in steps]
    return Work(
        request_id=request.request_id,
        user_id=request.user_id,
        key=request.key,
        priority=request.priority,
        rows=max(request.num_rows(step) for step in steps),
        num_steps=len(steps),
        row_steps=sum(costs),
        row_ms=cost.row_ms(request.key, max_rows),
        arrived_at=now,
        adapters=adapters,
        peak_rows=max(costs),
        moved=request.moved,
    )


def cost_rows(request: DenoiseRequest, step: int, cost: CostModel) -> float:
    """How many plain UNet rows cost as much as the request's rows in ``step``."""
    return cost.rows(
        request.num_rows(step),
        request.branch_at(step),
        adapted=bool(request.adapters),
        few_step=request.few_step,
    )
