"""The policies on contexts as Serve's controller makes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import AutoscalingContext

from core.scaling import Autoscaling, QueueScaling, WorkScaling
from deployments.serving.scaling import LOAD, WORK_S, QueuePolicy, WorkPolicy, replica_options

DENOISER = DeploymentID("Denoiser", "limner")
NOON = 1_750_075_200.0  # of a day in UTC


def context(
    reports: list[dict[str, float]], *, num_inside: float = 0.0, num_queued: float = 0.0, at: float = NOON
) -> AutoscalingContext:
    """``reports`` has what each replica recorded, averaged."""
    replicas = [ReplicaID(str(number), DENOISER) for number in range(len(reports))]
    metrics: dict[str, Any] = {
        name: {replica: report[name] for replica, report in zip(replicas, reports, strict=True)}
        for name in (WORK_S, LOAD)
    }
    return AutoscalingContext(
        deployment_id=DENOISER,
        deployment_name=DENOISER.name,
        app_name=DENOISER.app_name,
        current_num_replicas=len(reports),
        target_num_replicas=len(reports),
        running_replicas=replicas,
        total_num_requests=num_inside + num_queued,
        total_queued_requests=num_queued,
        aggregated_metrics=metrics if reports else None,
        raw_metrics=None,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=100,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=at,
        config=None,
    )


def policy_of(scaling: Autoscaling) -> Any:
    """The policy as the controller makes it: from a class and JSON."""
    policy = replica_options(1, scaling)["autoscaling_config"].policy
    return policy.get_policy()(**json.loads(json.dumps(policy.policy_kwargs)))


def by_work(**changes: Any) -> Any:
    return policy_of(WorkScaling(max_replicas=100, utilisation=0.5, horizon_s=10.0, **changes))


@pytest.mark.parametrize(
    ("reports", "wanted"),
    [
        ([], 0.0),
        ([{WORK_S: 0.0, LOAD: 0.0}], 0.0),
        ([{WORK_S: 0.0, LOAD: 0.5}], 1.0),
        ([{WORK_S: 20.0, LOAD: 0.0}], 4.0),
        ([{WORK_S: 20.0, LOAD: 1.0}, {WORK_S: 10.0, LOAD: 1.0}], 10.0),
    ],
)
def test_work_that_waits_and_work_that_arrives_count(reports: list[dict[str, float]], wanted: float) -> None:
    assert by_work()(context(reports))[0] == pytest.approx(wanted)


def test_requests_at_handles_count_like_those_inside() -> None:
    reports = [{WORK_S: 10.0, LOAD: 0.0}]
    alone, others = context(reports, num_inside=4), context(reports, num_inside=4, num_queued=12)
    assert by_work()(others)[0] == pytest.approx(4 * by_work()(alone)[0])


def test_many_small_requests_do_not_count_as_much_as_few_large_ones() -> None:
    small = context([{WORK_S: 5.0, LOAD: 0.0}], num_inside=50)
    large = context([{WORK_S: 50.0, LOAD: 0.0}], num_inside=5)
    assert by_work()(small)[0] < by_work()(large)[0]


@pytest.mark.parametrize(
    ("timezone", "hours", "floor"),
    [("UTC", 0, 5), ("UTC", 7, 2), ("UTC", 17, 2), ("UTC", 19.5, 2), ("UTC", 19.95, 5), ("Asia/Tokyo", 0, 2)],
)
def test_a_floor_keeps_replicas_warm_by_the_hour_of_its_time_zone(
    timezone: str, hours: float, floor: int
) -> None:
    floors = ({"at": "08:00", "num_replicas": 5}, {"at": "18:00", "num_replicas": 2})
    for policy in (
        by_work(floors=floors, timezone=timezone),
        policy_of(QueueScaling(max_replicas=9, floors=floors, timezone=timezone)),
    ):
        assert policy(context([], at=NOON + hours * 3_600))[0] == floor


def test_pipelines_go_by_their_queue() -> None:
    policy = policy_of(QueueScaling(max_replicas=9, requests_per_replica=4))
    assert policy(context([], num_inside=6, num_queued=4))[0] == 2.5
    assert policy(context([]))[0] == 0


def test_serve_gets_the_bounds_and_delays() -> None:
    scaling = QueueScaling(min_replicas=0, max_replicas=3, upscale_delay_s=1, downscale_delay_s=2)
    config = replica_options(7, scaling)["autoscaling_config"]
    assert (config.min_replicas, config.max_replicas) == (0, 3)
    assert (config.upscale_delay_s, config.downscale_delay_s) == (1, 2)
    assert config.policy.get_policy() is QueuePolicy
    assert replica_options(7, None) == {"num_replicas": 7}


def test_the_policies_refuse_what_the_settings_refuse() -> None:
    with pytest.raises(ValueError, match="utilisation"):
        WorkPolicy(max_replicas=2, utilisation=2.0)
