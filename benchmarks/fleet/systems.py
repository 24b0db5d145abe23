"""The systems that are compared: what a replica is, and by which rule their number follows the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.fleet.assumptions import Gpu, Nodes
from benchmarks.fleet.fleet import Fleet
from benchmarks.fleet.replicas import BatchReplica, Replica, SingleReplica
from benchmarks.fleet.routing import Route, fewest_requests
from benchmarks.fleet.scaling import NO_GAINS, Autoscaler, CountRule, Delays, Gains, Rule, WorkRule, floors_of
from benchmarks.fleet.traffic import Day, mean_full_s
from deployments.serving.demand import Floor, Goal, bounded

# Floors are for what is known from other days; they leave less room than the rule does.
FLOOR_UTILISATION = 0.9

# Ray Serve's knobs against swinging, for the targets chosen for the traffic.
TUNED = Gains(up=0.5, down=0.2)


@dataclass(frozen=True, slots=True)
class System:
    """One way to serve. ``scheduled``: warm replicas by the hour, as known from other days.

    ``headroom``: with how many times the replicas that full batches would need it begins, close to where
    its rule is at rest.
    """

    name: str
    make: Callable[[Gpu], Replica]
    rule: Rule
    headroom: float
    gains: Gains = NO_GAINS
    scheduled: bool = False
    hands_back: bool = True

    def fleet(
        self,
        gpu: Gpu,
        day: Day,
        nodes: Nodes,
        *,
        since: float,
        count_from: float,
        seed: int,
        route: Route = fewest_requests,
    ) -> Fleet:
        """A fleet that begins the day at about the size that it needs, with Ray Serve's default delays."""
        full_s = mean_full_s(gpu)
        floors: Sequence[Floor] = ()
        if self.scheduled:
            floors = floors_of(day.expected, full_s, FLOOR_UTILISATION)
        most = bounded(max(day.hours) * 24 / sum(day.hours) * day.mean * full_s * 6, 8, 1_000_000)
        autoscaler = Autoscaler(
            self.rule, Delays(), most=most, gains=self.gains, floors=floors, lead_s=nodes.start_s
        )
        return Fleet(
            lambda: self.make(gpu),
            bounded(day(since) * full_s * self.headroom, 1, most),
            nodes=nodes,
            autoscaler=autoscaler,
            route=route,
            seed=seed,
            since=since,
            count_from=count_from,
            hands_back=self.hands_back,
        )


def systems(utilisation: float, batch_target: float, single_target: float) -> list[System]:
    """Limner's two, Ray Serve's default, and Ray Serve with targets chosen for the traffic."""
    goal = Goal(utilisation)
    return [
        System("limner", BatchReplica, WorkRule(goal), 1 / utilisation, scheduled=True),
        System("limner, no schedule", BatchReplica, WorkRule(goal), 1 / utilisation),
        System("limner's engine, requests (2, default)", BatchReplica, CountRule(), 2.0),
        System(
            f"limner's engine, requests ({batch_target:g})", BatchReplica, CountRule(batch_target), 2.0, TUNED
        ),
        System("one at a time, requests (2, default)", SingleReplica, CountRule(), 2.2, hands_back=False),
        System(
            f"one at a time, requests ({single_target:g})",
            SingleReplica,
            CountRule(single_target),
            2.4,
            TUNED,
            hands_back=False,
        ),
    ]
