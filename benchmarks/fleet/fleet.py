"""Nodes that start, die and are taken away, requests that find their way to one: a day in virtual time.

Knows arrivals, replicas and an autoscaler by what they promise, not how they decide.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.fleet.assumptions import Nodes
from benchmarks.fleet.replicas import IDLE, Replica
from benchmarks.fleet.routing import Route, fewest_requests
from benchmarks.fleet.scaling import PERIOD_S, Autoscaler, Report
from benchmarks.fleet.tally import Tally
from benchmarks.fleet.traffic import HOUR_S, Request
from deployments.serving.demand import Demand

# A request that was accepted once and finds a full queue elsewhere asks again after this long.
_AGAIN_S = 1.0


@dataclass(slots=True, eq=False)
class Node:
    """One GPU with one replica, paid for from ``began_at`` on."""

    replica: Replica
    began_at: float
    ready: bool = False
    gone: bool = False
    # When the next wake-up is due that is in the fleet's queue.
    due_at: float = IDLE


class Fleet:
    """Serves arrivals on ``num_nodes`` nodes, or as many as ``autoscaler`` asks for."""

    def __init__(
        self,
        make: Callable[[], Replica],
        num_nodes: int,
        *,
        nodes: Nodes | None = None,
        autoscaler: Autoscaler | None = None,
        route: Route = fewest_requests,
        seed: int = 0,
        since: float = 0.0,
        count_from: float = 0.0,
        hands_back: bool = True,
    ) -> None:
        """With ``nodes``, nodes fail, are taken away and take time to start."""
        self._make, self._nodes, self._autoscaler, self._route = make, nodes, autoscaler, route
        self._routing, self._fate = random.Random(seed), random.Random(seed + 1)
        self._hands_back = hands_back
        self._count_from = count_from
        self.now = since
        self.tally = Tally()
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._num_events = 0
        self._present: list[Node] = []
        self._routable: list[Replica] = []
        self._node_of: dict[int, Node] = {}
        self._waiting: deque[Request] = deque()
        self.num_at_large = 0
        for _ in range(num_nodes):
            self._begin(start_s=0.0)
        if autoscaler is not None:
            self._at(since + PERIOD_S, self._scale, None)

    def run(self, arrivals: Iterable[Request], until: float = math.inf) -> Tally:
        """Serve ``arrivals`` until ``until``, or until the last of them is done."""
        for request in arrivals:
            self._advance(request.at)
            if request.at >= self._count_from:
                self.tally.num_arrived += 1
            self.num_at_large += 1
            self._offer(request)
        self._advance(until)
        self.now = until if until < math.inf else self.now
        for node in list(self._present):
            self._pay(node)
        self.tally.num_running = self._num_counted_at_large()
        return self.tally

    def _advance(self, until: float) -> None:
        events = self._events
        while events and events[0][0] <= until:
            if until == math.inf and not self.num_at_large:
                return
            self.now, _, act, subject = heapq.heappop(events)
            act(subject)
        if until < math.inf:
            self.now = until

    def _at(self, at: float, act: Callable[[Any], None], subject: Any) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (at, self._num_events, act, subject))

    # Requests.

    def _offer(self, request: Request) -> None:
        """Find a replica for it; one that was accepted before is never refused."""
        if not self._routable:
            self._waiting.append(request)
            return
        replica = self._route(self._routable, self.now, self._routing)
        if replica.submit(request, self.now):
            self._expect(self._node_of[id(replica)])
        elif request.num_losses:
            self._at(self.now + _AGAIN_S, self._offer, request)
        else:
            self.num_at_large -= 1
            if request.at >= self._count_from:
                self.tally.refused(self.now)

    def _expect(self, node: Node) -> None:
        """See to it that ``node`` is woken in time. Those that came to nothing find it so."""
        if node.replica.wake_at < node.due_at:
            node.due_at = node.replica.wake_at
            self._at(node.due_at, self._wake, node)

    def _wake(self, node: Node) -> None:
        if node.gone or self.now < node.due_at:
            return
        node.due_at = IDLE
        if node.replica.wake_at <= self.now:
            for request in node.replica.wake(self.now):
                self.num_at_large -= 1
                if request.at >= self._count_from:
                    self.tally.done((self.now - request.at) / request.alone_s, self.now)
            if not node.replica.num_ongoing and not self._is_routable(node):
                self._end(node)
                return
        self._expect(node)

    def _lose(self, node: Node, *, from_start: bool, after_s: float) -> None:
        """The requests of ``node``, which is gone, go elsewhere."""
        for request in node.replica.hand_back(self.now):
            if from_start:
                request.steps_left = request.num_steps
            request.num_losses += 1
            self.tally.num_restarts += from_start
            self.tally.num_handed_back += not from_start
            self._at(self.now + after_s, self._offer, request)

    def _num_counted_at_large(self) -> int:
        """Requests that count and have not ended."""
        return self.tally.num_arrived - self.tally.num_done - self.tally.num_refused

    # Nodes.

    def _begin(self, start_s: float) -> None:
        node = Node(self._make(), self.now)
        self._present.append(node)
        if start_s:
            self._at(self.now + start_s, self._ready, node)
        else:
            self._ready(node)
        if self._nodes is None:
            return
        hours = self._nodes.node_hours_to_failure
        self._at(self.now + self._fate.expovariate(1 / hours) * HOUR_S, self._crash, node)
        if self._fate.random() < self._nodes.spot_share:
            hours = self._nodes.spot_hours_to_notice
            self._at(self.now + self._fate.expovariate(1 / hours) * HOUR_S, self._notice, node)

    def _ready(self, node: Node) -> None:
        if node.gone:
            return
        node.ready = True
        self._routable.append(node.replica)
        self._node_of[id(node.replica)] = node
        while self._waiting and self._routable:
            self._offer(self._waiting.popleft())

    def _is_routable(self, node: Node) -> bool:
        return id(node.replica) in self._node_of and not node.gone

    def _unroute(self, node: Node) -> None:
        if self._node_of.pop(id(node.replica), None) is not None:
            self._routable.remove(node.replica)

    def _crash(self, node: Node) -> None:
        """A node dies. Its requests start over once that is noticed; a new node is begun."""
        if node.gone:
            return
        assert self._nodes is not None
        self.tally.num_crashes += 1
        was_wanted = not node.ready or self._is_routable(node)
        self._end(node)
        self._lose(node, from_start=True, after_s=self._nodes.detect_s)
        if was_wanted:
            self._begin(self._nodes.start_s)

    def _notice(self, node: Node) -> None:
        """A spot node will be taken away: it takes no more requests, and another is begun at once."""
        if node.gone or (node.ready and not self._is_routable(node)):
            return
        assert self._nodes is not None
        self.tally.num_notices += 1
        self._begin(self._nodes.start_s)
        self._drain(node)
        if not node.gone:
            self._at(self.now + self._nodes.drain_s, self._take_away, node)

    def _take_away(self, node: Node) -> None:
        if not node.gone:
            self._end(node)
            self._lose(node, from_start=not self._hands_back, after_s=0.0)

    def _drain(self, node: Node) -> None:
        """It finishes what it has."""
        self._unroute(node)
        if not node.replica.num_ongoing:
            self._end(node)

    def _end(self, node: Node) -> None:
        self._pay(node)
        self._unroute(node)
        self._present.remove(node)
        node.gone = True

    def _pay(self, node: Node) -> None:
        self.tally.node_s += max(self.now - max(node.began_at, self._count_from), 0.0)

    # Autoscaling.

    def _scale(self, _: None) -> None:
        assert self._autoscaler is not None
        wanted = [node for node in self._present if not node.ready or self._is_routable(node)]
        demands = [node.replica.demand(self.now) for node in self._present if node.ready]
        report = Report(
            sum(node.replica.num_ongoing for node in self._present) + len(self._waiting),
            Demand(sum(each.work_s for each in demands), sum(each.load for each in demands)),
        )
        decided = self._autoscaler.decide(report, len(wanted), self.now)
        for _number in range(decided - len(wanted)):
            self._begin(self._nodes.start_s if self._nodes else 0.0)
        # Those that are still starting first, then the newest.
        surplus = sorted(wanted, key=lambda node: (node.ready, -node.began_at))
        for node in surplus[: max(len(wanted) - decided, 0)]:
            self._drain(node)
        if self.now >= self._count_from:
            self.tally.see_nodes(len(self._present), self.now)
        self._at(self.now + PERIOD_S, self._scale, None)
