"""Which Denoiser replica gets a request with adapters: one that holds them, unless another is much freer.

Knows ids, queue lengths and Ray Serve's request routers; nothing of weights and pictures.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from ray.serve._private.request_router.common import ReplicaQueueLengthCache
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica

# The replicas' ids and queue lengths reach the routers this often.
_PERIOD_S = 1.0
_SEPARATOR = ","
_HELD = "adapters"


class Candidate(NamedTuple):
    """A replica as a router sees it: ``num_requests`` wait or run there, ``held`` are its adapters."""

    replica_id: str
    num_requests: int
    held: Collection[str] = frozenset()


def choose(candidates: Sequence[Candidate], adapter_ids: Sequence[str], margin: int) -> Candidate:
    """The one of ``candidates`` that a request with the sorted ``adapter_ids`` goes to.

    A request waits for those before it, all of one network: so predicted waits are compared as numbers of
    requests. Only candidates with at most ``margin`` more of them than the least are near enough. Of
    these, one that holds most of the adapters gets the request, the freest if there are several. Adapters
    that none holds have a home among them by rendezvous hashing (Thaler and Ravishankar 1998): a new
    adapter's first requests meet there before anybody has heard of it, and new adapters in general spread
    over all. A stack's home is that of its first adapter, where requests for that one alone go as well.
    """
    least = min(candidate.num_requests for candidate in candidates)

    def rank(candidate: Candidate) -> tuple[int, int, bytes]:
        num_held = sum(adapter_id in candidate.held for adapter_id in adapter_ids)
        freeness = -candidate.num_requests if num_held else 0
        return num_held, freeness, _affinity(adapter_ids[0], candidate.replica_id)

    return max((each for each in candidates if each.num_requests <= least + margin), key=rank)


def _affinity(adapter_id: str, replica_id: str) -> bytes:
    return hashlib.blake2b(f"{adapter_id}{_SEPARATOR}{replica_id}".encode(), digest_size=8).digest()


def routing_id(adapter_ids: Iterable[str]) -> str:
    """What ``handle.options(multiplexed_model_id=...)`` takes for a request; empty without adapters.

    Whatever their order and weights, the same adapters give the same id.
    """
    return _SEPARATOR.join(sorted(set(adapter_ids)))


def routing_stats(held: Iterable[str]) -> dict[str, list[str]]:
    """What a replica's ``record_routing_stats`` returns, for :class:`AdapterRouter` to read."""
    return {_HELD: sorted(held)}


class AdapterRouter(FIFOMixin, RequestRouter):
    """Sends requests with adapters by :func:`choose`, others to the shorter of two random queues.

    Serve's own routing of multiplexed models sends everything for a model to its replica until that one
    refuses, however idle the others are, and a model that nobody holds to the replica with the fewest.
    ``@serve.multiplexed`` keeps a metric for every id it has ever seen and sets those of all present ones
    ten times a second; what replicas say here comes from their cache itself, so no id can be left behind.

    FIFO, since Serve tells waiting requests apart by an id that the pictures of one request share.
    """

    def initialize_state(self, margin: int = 2, **others: Any) -> None:
        """Take ``request_router_kwargs``; called once, before there are replicas."""
        super().initialize_state(**others)  # type: ignore[no-untyped-call]
        self._margin = margin
        self._asking = asyncio.Lock()
        # Every pipeline's replica has a router of its own: what one last saw of a queue is soon outdated.
        self._replica_queue_len_cache = ReplicaQueueLengthCache(staleness_timeout_s=_PERIOD_S)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The chosen replica, or two while all are full."""
        model_id = ""
        if pending_request is not None:
            # Without it, Serve would ask again at once and for ever while all queues are full.
            pending_request.routing_context.should_backoff = True
            model_id = pending_request.metadata.multiplexed_model_id
        two = random.sample(candidate_replicas, min(2, len(candidate_replicas)))
        free = await self._free(candidate_replicas if model_id else two)
        if not free:
            return [two]
        if model_id:
            chosen = choose(list(free), model_id.split(_SEPARATOR), self._margin)
        else:
            chosen = min(free, key=lambda candidate: candidate.num_requests)
        # Requests that come at once are all routed before the first of them is sent.
        self.on_send_request(free[chosen].replica_id)
        return [[free[chosen]]]

    async def _free(self, replicas: Sequence[RunningReplica]) -> dict[Candidate, RunningReplica]:
        """The replicas with room in their queues; those whose length is not known are asked for it."""
        lengths = self.replica_queue_len_cache
        # One at a time: an answer that comes later would not know of requests routed in the meantime.
        async with self._asking:
            unknown = [replica for replica in replicas if lengths.get(replica.replica_id) is None]
            if unknown:
                await self._probe_queue_lens(unknown, 0)
        free = {}
        for replica in replicas:
            length = lengths.get(replica.replica_id)
            if length is not None and length < replica.max_ongoing_requests:
                held = frozenset(replica.routing_stats.get(_HELD, ()))
                free[Candidate(replica.replica_id.unique_id, length, held)] = replica
        return free


def router_config(max_rows: int) -> RequestRouterConfig:
    """The request router of a deployment whose replicas denoise ``max_rows`` rows at a time.

    A guided request has two rows, so an eighth of the rows is a quarter of the requests that run together:
    in a batch that is not full the wait for so many more is short, and a full one hardly notices.
    """
    return RequestRouterConfig(
        request_router_class=AdapterRouter,  # type: ignore[arg-type]
        request_router_kwargs={"margin": max(1, max_rows // 8)},
        request_routing_stats_period_s=_PERIOD_S,  # type: ignore[arg-type]
    )
