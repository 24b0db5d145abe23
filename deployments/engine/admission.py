"""Whether a request is taken, and when it will be done. Knows work and its cost, not tensors."""

from __future__ import annotations

from dataclasses import replace

from core.errors import DeadlineUnmeetable, QueueFull
from deployments.engine.cost import CostModel, Forecast, forecast
from deployments.engine.request import DenoiseRequest
from deployments.engine.scheduler import Scheduler, Work


def work_of(
    request: DenoiseRequest,
    now: float,
    cost: CostModel,
    max_rows: int,
    adapters: frozenset[str] = frozenset(),
) -> Work:
    """What the scheduler needs to know of a request that arrives ``now``; ``adapters`` are those that act."""
    steps = range(request.first_step, request.num_inference_steps)
    return Work(
        request_id=request.request_id,
        user_id=request.user_id,
        key=request.key,
        priority=request.priority,
        rows=max(request.num_rows(step) for step in steps),
        num_steps=len(steps),
        row_steps=sum(cost_rows(request, step, cost) for step in steps),
        row_ms=cost.row_ms(request.key, max_rows),
        arrived_at=now,
        adapters=adapters,
    )


def cost_rows(request: DenoiseRequest, step: int, cost: CostModel) -> float:
    """How many plain UNet rows cost as much as the request's rows in ``step``."""
    return cost.rows(request.num_rows(step), request.branch_at(step), adapted=bool(request.adapters))


def admit(
    scheduler: Scheduler,
    work: Work,
    cost: CostModel,
    *,
    now: float,
    deadline_s: float | None,
    max_queued_requests: int,
) -> Forecast:
    """Add ``work`` to the queue; returns the outlook that includes it.

    Raises QueueFull, to be tried again when the first queued request is predicted to start, or
    DeadlineUnmeetable, with no ``retry_after_s`` when even an idle engine would be too slow.
    """
    if scheduler.num_queued >= max_queued_requests:
        room_at = forecast(scheduler, cost, now).first_start_at
        raise QueueFull(
            f"{scheduler.num_queued} requests are waiting",
            limit=max_queued_requests,
            retry_after_s=max(room_at - now, cost.step_ms(work.key, work.rows) / 1_000),
        )
    future = scheduler.copy()
    future.add(replace(work))
    outlook = forecast(future, cost, now)
    predicted_s = outlook.finish_at[work.request_id] - now
    if deadline_s is not None and predicted_s > deadline_s:
        alone_s = work.num_steps * cost.step_ms(work.key, work.row_steps / work.num_steps) / 1_000
        raise DeadlineUnmeetable(
            f"the picture would take {predicted_s:.1f} s, {alone_s:.1f} s on an idle engine",
            field="deadline_s",
            limit=deadline_s,
            retry_after_s=predicted_s - deadline_s if alone_s <= deadline_s else None,
        )
    scheduler.add(work)
    return outlook
