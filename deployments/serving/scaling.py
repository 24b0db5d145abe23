"""Ray Serve's autoscaling, asked through our arithmetic: a deployment's options and its policy.

Serve's controller calls the policies several times a second. It applies the delays and the bounds itself, and
starts the first replica of a deployment that has none as soon as a request waits.
"""

from __future__ import annotations

import time
import warnings
from datetime import datetime
from datetime import time as datetime_time
from typing import Any
from zoneinfo import ZoneInfo

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from ray.util.metrics import Gauge

from core.scaling import Autoscaling, QueueScaling, WorkScaling
from deployments.serving.demand import Demand, Floor, Goal, floor_at, replicas_for

# What a replica's ``record_autoscaling_stats`` returns for :class:`WorkPolicy`.
WORK_S, LOAD = "work_s", "load"


def replica_options(num_replicas: int, scaling: Autoscaling | None) -> dict[str, Any]:
    """What ``serve.deployment`` takes: a fixed number of replicas, or those that ``scaling`` asks for."""
    if scaling is None:
        return {"num_replicas": num_replicas}
    policy = WorkPolicy if isinstance(scaling, WorkScaling) else QueuePolicy
    with warnings.catch_warnings():
        # Serve 2.60 calls this knob deprecated, and reads no other one per deployment.
        warnings.filterwarnings("ignore", message=".*metrics_interval_s.*")
        config = AutoscalingConfig(
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            upscale_delay_s=scaling.upscale_delay_s,
            downscale_delay_s=scaling.downscale_delay_s,
            downscale_to_zero_delay_s=scaling.downscale_to_zero_delay_s,
            look_back_period_s=scaling.look_back_s,
            metrics_interval_s=scaling.interval_s,
            policy=AutoscalingPolicy(
                policy_function=f"{policy.__module__}:{policy.__qualname__}",
                policy_kwargs=scaling.model_dump(mode="json"),
            ),
        )
    return {"autoscaling_config": config}


class WorkPolicy:
    """Replicas by the seconds of work that wait, run and arrive at all of them together."""

    def __init__(self, **settings: Any) -> None:
        scaling = WorkScaling.model_validate(settings)
        self._goal = Goal(scaling.utilisation, scaling.horizon_s)
        self._floors = _Floors(scaling)
        self._figures = _Figures()

    def __call__(self, ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        demand = demand_of(ctx)
        floor = self._floors.at(ctx.current_time)
        wanted = max(replicas_for(demand, self._goal), floor)
        self._figures.set(ctx, wanted=wanted, floor=floor, work_s=demand.work_s, load=demand.load)
        return wanted, {}


class QueuePolicy:
    """Replicas by the number of requests that wait or run."""

    def __init__(self, **settings: Any) -> None:
        scaling = QueueScaling.model_validate(settings)
        self._requests_per_replica = scaling.requests_per_replica
        self._floors = _Floors(scaling)
        self._figures = _Figures()

    def __call__(self, ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        floor = self._floors.at(ctx.current_time)
        wanted = max(ctx.total_num_requests / self._requests_per_replica, floor)
        self._figures.set(ctx, wanted=wanted, floor=floor, requests=ctx.total_num_requests)
        return wanted, {}


def demand_of(ctx: AutoscalingContext) -> Demand:
    """What the replicas report, and as much again for requests that wait at handles, which none knows of."""
    reported = ctx.aggregated_metrics or {}
    work_s = sum(reported.get(WORK_S, {}).values())
    load = sum(reported.get(LOAD, {}).values())
    num_inside = ctx.total_num_requests - ctx.total_queued_requests
    if num_inside >= 1:
        work_s *= 1 + ctx.total_queued_requests / num_inside
    return Demand(work_s, load)


class _Floors:
    def __init__(self, scaling: Autoscaling) -> None:
        self._floors = [Floor(_seconds(each.at), each.num_replicas) for each in scaling.floors]
        self._timezone, self._lead_s = ZoneInfo(scaling.timezone), scaling.floor_lead_s

    def at(self, timestamp: float | None) -> int:
        """The floor at this clock time; now where Serve does not tell it."""
        instant = time.time() if timestamp is None else timestamp
        return floor_at(self._floors, _seconds(datetime.fromtimestamp(instant, self._timezone)), self._lead_s)


def _seconds(of_day: datetime | datetime_time) -> float:
    return of_day.hour * 3_600 + of_day.minute * 60 + of_day.second


class _Figures:
    """What the policy saw and wants, as metrics of Serve's controller."""

    def __init__(self) -> None:
        self._gauges = {
            "wanted": Gauge(
                "limner_scaling_wanted_replicas", "Replicas that demand asks for.", ("deployment",)
            ),
            "floor": Gauge(
                "limner_scaling_floor_replicas", "Replicas kept warm by schedule.", ("deployment",)
            ),
            "work_s": Gauge("limner_scaling_work_s", "Seconds of work that wait or run.", ("deployment",)),
            "load": Gauge("limner_scaling_load", "Seconds of work that arrive per second.", ("deployment",)),
            "requests": Gauge("limner_scaling_requests", "Requests that wait or run.", ("deployment",)),
        }

    def set(self, ctx: AutoscalingContext, **values: float) -> None:
        for name, value in values.items():
            self._gauges[name].set(value, {"deployment": ctx.deployment_name})
