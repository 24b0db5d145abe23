from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, RequestMetadata
from ray.serve.request_router import PendingRequest, ReplicaID

from deployments.serving.affinity import AdapterRouter, Candidate, choose, routing_id, routing_stats

MARGIN = 2
DEPLOYMENT = DeploymentID(name="Denoiser", app_name="limner")

adapters = st.sets(st.sampled_from("abcdefgh"), max_size=8)
stacks = adapters.filter(bool).map(sorted)


@st.composite
def fleets(draw: st.DrawFn) -> list[Candidate]:
    states = draw(st.lists(st.tuples(st.integers(0, 12), adapters.map(frozenset)), min_size=1, max_size=6))
    return [Candidate(f"replica-{number}", length, held) for number, (length, held) in enumerate(states)]


def near(fleet: Sequence[Candidate], margin: int) -> list[Candidate]:
    least = min(candidate.num_requests for candidate in fleet)
    return [candidate for candidate in fleet if candidate.num_requests <= least + margin]


@given(fleets(), stacks, st.integers(0, 5))
def test_nobody_waits_for_more_than_the_margin(fleet: list[Candidate], stack: list[str], margin: int) -> None:
    assert choose(fleet, stack, margin) in near(fleet, margin)


@given(fleets(), stacks, st.integers(0, 5))
def test_of_the_near_ones_the_freest_of_those_that_hold_most_is_chosen(
    fleet: list[Candidate], stack: list[str], margin: int
) -> None:
    chosen = choose(fleet, stack, margin)
    for other in near(fleet, margin):
        held, others = len(chosen.held & set(stack)), len(other.held & set(stack))  # type: ignore[operator]
        assert others <= held
        if others == held > 0:
            assert chosen.num_requests <= other.num_requests


@given(fleets(), stacks, st.integers(0, 5), st.randoms(use_true_random=False))
def test_every_router_chooses_the_same(
    fleet: list[Candidate], stack: list[str], margin: int, shuffler: Any
) -> None:
    chosen = choose(fleet, stack, margin)
    shuffler.shuffle(fleet)
    assert choose(fleet, stack, margin) == chosen


def test_new_adapters_spread_over_all_replicas() -> None:
    fleet = [Candidate(f"replica-{number}", 0) for number in range(4)]
    homes = Counter(choose(fleet, [f"adapter-{number}"], MARGIN).replica_id for number in range(400))
    assert min(homes.values()) > 70


def test_adapters_whose_replica_stays_keep_it_when_another_leaves() -> None:
    fleet = [Candidate(f"replica-{number}", 0) for number in range(4)]
    for number in range(100):
        home = choose(fleet, [f"adapter-{number}"], MARGIN)
        left = fleet[1:] if home is not fleet[0] else fleet[:-1]
        assert choose(left, [f"adapter-{number}"], MARGIN) == home


def test_a_hot_adapter_spreads_when_its_replica_is_loaded() -> None:
    lengths = {"one": 0, "two": 0}
    held: dict[str, frozenset[str]] = {"one": frozenset(), "two": frozenset()}
    for _ in range(20):
        chosen = choose([Candidate(name, lengths[name], held[name]) for name in lengths], ["hot"], MARGIN)
        lengths[chosen.replica_id] += 1
        held[chosen.replica_id] = frozenset({"hot"})
    assert held["one"] == held["two"]
    assert abs(lengths["one"] - lengths["two"]) <= 1


def test_the_routing_id_depends_on_the_adapters_alone() -> None:
    assert routing_id([]) == ""
    assert routing_id(["b", "a", "b"]) == routing_id(["a", "b"]) == "a,b"


class FakeReplica:
    """A running replica with ``length`` requests."""

    def __init__(
        self, name: str, length: int, held: Sequence[str] = (), max_ongoing_requests: int = 10
    ) -> None:
        self.replica_id = ReplicaID(unique_id=name, deployment_id=DEPLOYMENT)
        self.routing_stats = routing_stats(held)
        self.max_ongoing_requests = max_ongoing_requests
        self.length = length
        self.num_asked = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        self.num_asked += 1
        return self.length


def router() -> AdapterRouter:
    made = AdapterRouter(  # type: ignore[no-untyped-call]
        deployment_id=DEPLOYMENT,
        handle_source=DeploymentHandleSource.REPLICA,
        use_replica_queue_len_cache=True,
    )
    made.initialize_state(margin=MARGIN)
    return made


def pending(*adapter_ids: str) -> PendingRequest:
    # The pictures of one request share these ids.
    metadata = RequestMetadata(
        request_id="r", internal_request_id="r", multiplexed_model_id=routing_id(adapter_ids)
    )
    return PendingRequest(args=[], kwargs={}, metadata=metadata)


async def names(router: AdapterRouter, replicas: Sequence[FakeReplica], *adapter_ids: str) -> list[str]:
    request = pending(*adapter_ids)
    (chosen,) = await router.choose_replicas(list(replicas), request)  # type: ignore[arg-type]
    assert request.routing_context.should_backoff
    return [replica.replica_id.unique_id for replica in chosen]


async def test_the_router_asks_for_lengths_that_it_does_not_know_and_only_those() -> None:
    holder, other = FakeReplica("holder", MARGIN, ["a"]), FakeReplica("other", 0)
    routes = router()
    assert await names(routes, [holder, other], "a") == ["holder"]
    assert await names(routes, [holder, other], "a") == ["other"], "the first request counts already"
    assert holder.num_asked == other.num_asked == 1


async def test_a_full_replica_is_not_chosen() -> None:
    holder = FakeReplica("holder", 1, ["a"], max_ongoing_requests=1)
    assert await names(router(), [holder, FakeReplica("other", 1)], "a") == ["other"]


async def test_when_all_are_full_serve_goes_on_asking_two_of_them() -> None:
    full = [FakeReplica(f"replica-{number}", 10) for number in range(3)]
    assert len(await names(router(), full, "a")) == 2


@pytest.mark.parametrize("num_replicas", [1, 2, 5])
async def test_requests_without_adapters_take_the_shorter_of_two_queues(num_replicas: int) -> None:
    replicas = [FakeReplica(f"replica-{number}", number) for number in range(num_replicas)]
    taken = [(await names(router(), replicas)) for _ in range(200)]
    assert {len(each) for each in taken} == {1}
    numbers = Counter(int(name.rpartition("-")[2]) for (name,) in taken)
    # The longest queue is never the shorter of two; the shortest is whenever it is one of the two.
    assert set(numbers) == set(range(max(1, num_replicas - 1)))
    assert sum(replica.num_asked for replica in replicas) == 200 * min(2, num_replicas)


@pytest.mark.parametrize("adapters", [("a",), ()])
async def test_pictures_of_one_request_are_all_placed_and_not_all_on_one_replica(
    adapters: tuple[str, ...],
) -> None:
    routes, replicas = router(), [FakeReplica("one", 0), FakeReplica("two", 0)]
    routes.update_replicas(replicas)  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        # Serve asks new replicas by itself; this is about what happens later, when that is forgotten.
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
        routes.replica_queue_len_cache.remove_inactive_replicas(active_replica_ids=set())
        ways = [routes._choose_replica_for_request(pending(*adapters)) for _ in range(8)]
        placed = await asyncio.gather(*ways)
    counts = Counter(replica.replica_id.unique_id for replica in placed)
    assert abs(counts["one"] - counts["two"]) <= (MARGIN + 1 if adapters else 0)
