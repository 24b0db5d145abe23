"""The requests of one batch key and class, by rank, and the room that a step has for them."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping

from deployments.engine.work import BatchKey, Work

# A request that waited four seconds longer outranks one with a second less work to do.
AGEING = 0.25


def own_rank(work: Work) -> float:
    """Its rank among its member's requests: least remaining work, with ageing. Lower goes first.

    All who wait earn credit at one rate, so adding the arrival time is enough.
    """
    return work.row_steps * work.row_ms + AGEING * 1_000 * work.arrived_at


def rank(work: Work) -> tuple[float, int]:
    """Rank of a request under way among those of all members."""
    assert work.tag is not None
    return work.tag + own_rank(work), work.number


class Lane:
    """The requests of ``key`` of one class. ``served_ms`` is the members' virtual time.

    The order of a member's own requests never changes while they wait, and charging a member moves all of
    them alike: so there is one heap per member, and one over members whose entries are put right when read.
    ``waiting_ms`` is the device time of all who wait.
    """

    def __init__(self, key: BatchKey, served_ms: Mapping[str, float]) -> None:
        self.key = key
        self.members: Counter[str] = Counter()
        self.running: list[Work] = []
        self.waiting_ms = 0.0
        self._served_ms = served_ms
        self._waiting: dict[str, list[tuple[float, int, Work]]] = {}
        self._order: list[tuple[float, int, str]] = []
        self._value: dict[str, float] = {}

    def add(self, work: Work) -> None:
        self.members[work.user_id] += 1
        if work.tag is None:
            self.wait(work)
        else:
            self.running.append(work)

    def remove(self, work: Work) -> None:
        """Forget ``work``, wherever it stands."""
        user = work.user_id
        self.members[user] -= 1
        if not self.members[user]:
            del self.members[user]
        if work.tag is None:
            self.leave_queue(work)
        else:
            self.running.remove(work)

    def wait(self, work: Work) -> None:
        """Queue ``work``; its place among the members' lanes is found by :func:`own_rank`."""
        self.waiting_ms += work.remaining_ms
        heapq.heappush(self._waiting.setdefault(work.user_id, []), (own_rank(work), work.number, work))
        self.reorder(work.user_id)

    def reorder(self, user_id: str) -> None:
        """``user_id`` may have moved forward, by a request that came or a charge that was given back."""
        own = self._waiting.get(user_id)
        if own is None:
            return
        value = self._served_ms[user_id] + own[0][0]
        known = self._value.get(user_id)
        if known is None or value < known:
            self._value[user_id] = value
            heapq.heappush(self._order, (value, own[0][1], user_id))

    def best_waiting(self) -> Work | None:
        """Whose turn it is to start; it stays where it is."""
        order = self._order
        while order:
            value, _, user = order[0]
            if self._value.get(user) != value:
                heapq.heappop(order)
                continue
            own = self._waiting.get(user)
            if own is None:
                heapq.heappop(order)
                del self._value[user]
                continue
            now = self._served_ms[user] + own[0][0]
            if now > value:
                self._value[user] = now
                heapq.heapreplace(order, (now, own[0][1], user))
                continue
            return own[0][2]
        return None

    def leave_queue(self, work: Work) -> None:
        """Take ``work`` out of the queue."""
        self.waiting_ms -= work.remaining_ms
        own = self._waiting[work.user_id]
        if own[0][2] is work:
            heapq.heappop(own)
        else:
            own[:] = [entry for entry in own if entry[2] is not work]
            heapq.heapify(own)
        if not own:
            del self._waiting[work.user_id]

    def by_rank(self) -> list[Work]:
        """Those under way."""
        self.running.sort(key=rank)
        return self.running


class Room:
    """What a step has room for, and the ``batch`` that takes it, those of higher rank first.

    Work that finds no room for its adapters is passed over, and after it nothing may bring another adapter
    along, so that room is left for it as others finish. ``num_kept`` of the rows are kept from those who
    have not started.
    """

    def __init__(self, num_free: int, max_adapters: int, num_kept: int) -> None:
        self.batch: list[Work] = []
        self.num_free, self.num_kept = num_free, num_kept
        self._max_adapters = max_adapters
        self._adapters: set[str] = set()
        self._closed = False

    def takes(self, work: Work) -> bool:
        """Add ``work`` unless its adapters find no room."""
        if work.adapters:
            new = work.adapters - self._adapters
            if new and (self._closed or len(self._adapters) + len(new) > self._max_adapters):
                self._closed = True
                return False
            self._adapters |= new
        self.num_free -= work.rows
        self.batch.append(work)
        return True
