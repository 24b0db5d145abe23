"""Which requests the next step advances. Policy only: no torch, no clock of its own.

Users share the device by virtual time (start-time fair queueing, Goyal et al. 1996), in milliseconds of
device time; a user's own requests go by least remaining work. Waiting earns credit, so nothing starves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from core.types import Priority

# A request that waited four seconds longer outranks one with a second less work to do.
AGEING = 0.25
# Background work that waited this long is treated as interactive.
PROMOTION_S = 60.0
_NUM_USERS_KEPT = 1_000


class BatchKey(NamedTuple):
    """Requests with equal keys may share a UNet call; everything else may differ between them."""

    channels: int
    height: int
    width: int
    num_tokens: int
    context_dim: int
    added_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass(slots=True)
class Work:
    """What the policy knows of a request.

    ``rows`` is reserved in every step; ``row_steps`` is what remains to compute, in plain UNet rows summed
    over the ``num_steps`` that remain, each costing ``row_ms`` of device time. ``adapters`` have to be
    on the device in every step. ``tag`` is the user's virtual time at the request's first step, None
    while it is queued.
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

    @property
    def remaining_ms(self) -> float:
        return self.row_steps * self.row_ms

    def advance(self, num_steps: int, row_steps: float) -> None:
        self.num_steps -= num_steps
        self.row_steps -= row_steps


class _Room:
    """What a step has room for, and the ``batch`` that takes it, those of higher rank first."""

    def __init__(self, num_free: int, max_adapters: int) -> None:
        self.batch: list[Work] = []
        self.num_free = num_free
        self._max_adapters = max_adapters
        self._adapters: set[str] = set()
        self._closed = False

    def takes(self, work: Work) -> bool:
        """Add ``work`` unless its adapters find no room."""
        new = work.adapters - self._adapters
        if new and (self._closed or len(self._adapters) + len(new) > self._max_adapters):
            self._closed = True
            return False
        self._adapters |= new
        self.num_free -= work.rows
        self.batch.append(work)
        return True


class Scheduler:
    """The queue and the running set, and the order in which they are served.

    Each step serves one batch key: that of the request with the highest rank, whether it is running
    or queued. Then running requests of that key keep their rows, and queued ones join by rank while
    rows are free. Rank is class, then virtual finish. Interactive work goes first and may park running
    background work at a step boundary. A step has room for ``max_adapters`` different adapters: work
    that finds none left is passed over, and after it nothing may bring another adapter along, so that
    room is left for it as others finish.
    """

    def __init__(self, max_rows: int, max_adapters: int = 0) -> None:
        assert max_rows >= 2, "a guided request needs two rows"
        self.max_rows, self.max_adapters = max_rows, max_adapters
        self._work: dict[str, Work] = {}
        self._served_ms: dict[str, float] = {}
        self._virtual_ms = 0.0

    def __len__(self) -> int:
        return len(self._work)

    def __iter__(self) -> Iterator[Work]:
        return iter(self._work.values())

    @property
    def num_running(self) -> int:
        return sum(work.tag is not None for work in self)

    @property
    def num_queued(self) -> int:
        return sum(work.tag is None for work in self)

    def add(self, work: Work) -> None:
        """Queue ``work``. A user who was away gains nothing by it: virtual time does not lag behind."""
        assert work.request_id not in self._work
        assert len(work.adapters) <= self.max_adapters
        if all(other.user_id != work.user_id for other in self):
            self._forget_idle_users()
            self._served_ms[work.user_id] = max(self._served_ms.get(work.user_id, 0.0), self._virtual_ms)
        self._work[work.request_id] = work

    def remove(self, request_id: str) -> None:
        """Forget a request that ended. What it was charged for and did not use is given back."""
        work = self._work.pop(request_id)
        if work.tag is not None:
            self._served_ms[work.user_id] -= work.remaining_ms

    def next_batch(self, now: float) -> list[Work]:
        """The requests of one key to advance by a step, at most ``max_rows`` rows; empty when idle."""
        if not self._work:
            return []
        background = {work.request_id: self._is_background(work, now) for work in self}
        head = min(self, key=lambda work: (background[work.request_id], self._virtual_finish(work)))
        self._virtual_ms = max(self._virtual_ms, self._start_tag(head))
        room = _Room(self.max_rows, self.max_adapters)
        for in_class in (False, True):
            works = [w for w in self if w.key == head.key and background[w.request_id] is in_class]
            if not self._fill(room, works):
                break
        return room.batch

    def _fill(self, room: _Room, works: list[Work]) -> bool:
        """Add ``works`` of one class while rows are free, running first; False when one finds no row."""
        running = sorted((work for work in works if work.tag is not None), key=self._virtual_finish)
        queued = [work for work in works if work.tag is None]
        while running or queued:
            # Queued ones are ranked anew each time: starting one moves its user's others back.
            best = running.pop(0) if running else min(queued, key=self._virtual_finish)
            if best.rows > room.num_free:
                return False
            if best.tag is None:
                queued.remove(best)
            if room.takes(best) and best.tag is None:
                best.tag = self._served_ms[best.user_id]
                self._served_ms[best.user_id] += best.remaining_ms
        return True

    def copy(self) -> Self:
        """An independent copy, to play the future on."""
        twin = type(self)(self.max_rows, self.max_adapters)
        twin._work = {request_id: replace(work) for request_id, work in self._work.items()}
        twin._served_ms = dict(self._served_ms)
        twin._virtual_ms = self._virtual_ms
        return twin

    def _forget_idle_users(self) -> None:
        if len(self._served_ms) > _NUM_USERS_KEPT:
            active = {work.user_id for work in self}
            self._served_ms = {
                user: served
                for user, served in self._served_ms.items()
                if user in active or served > self._virtual_ms
            }

    def _start_tag(self, work: Work) -> float:
        return self._served_ms[work.user_id] if work.tag is None else work.tag

    def _is_background(self, work: Work, now: float) -> bool:
        return work.priority is Priority.BACKGROUND and now - work.arrived_at < PROMOTION_S

    def _virtual_finish(self, work: Work) -> float:
        """Lower goes first. All who wait earn credit at one rate, so adding the arrival time is enough."""
        return self._start_tag(work) + work.remaining_ms + AGEING * 1_000 * work.arrived_at
