"""Shares of the device: of members by virtual time, of batch keys by deficit round robin, both in ms.

Start-time fair queueing is Goyal et al. 1996, deficit round robin Shreedhar and Varghese 1995.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Self

from deployments.engine.work import BatchKey, Work

# One round over all keys that have work. Long enough that a key is not left after every step.
ROUND_MS = 1_000.0
# Of the members who are away, so many are remembered at least.
_NUM_MEMBERS_KEPT = 1_000


class MemberShares:
    """The virtual time of every member: what it was given so far, or the time of those served if later."""

    def __init__(self) -> None:
        self.served_ms: dict[str, float] = {}
        self.virtual_ms = 0.0

    def welcome(self, user_id: str, present: Collection[str]) -> None:
        """A member comes who has no work here. It gains nothing by having been away."""
        if len(self.served_ms) > 2 * _NUM_MEMBERS_KEPT + len(present):
            self._forget(present)
        self.served_ms[user_id] = max(self.served_ms.get(user_id, 0.0), self.virtual_ms)

    def _forget(self, present: Collection[str]) -> None:
        """Keep those who are present, and of the others the ones that are ahead the furthest.

        Where every member comes once, all stay ahead of the virtual time for ever. So many are forgotten at
        once that the search for them costs each newcomer next to nothing.
        """
        absent = ((ahead, user) for user, ahead in self.served_ms.items() if user not in present)
        furthest = heapq.nlargest(_NUM_MEMBERS_KEPT, (each for each in absent if each[0] > self.virtual_ms))
        kept = {user: self.served_ms[user] for user in present if user in self.served_ms}
        kept.update((user, ahead) for ahead, user in furthest)
        # In place: lanes look members up in this very mapping.
        self.served_ms.clear()
        self.served_ms.update(kept)

    def start(self, work: Work) -> None:
        """Charge the member of ``work``, which leaves the queue, for all of it."""
        work.tag = self.served_ms[work.user_id]
        self.served_ms[work.user_id] += work.remaining_ms

    def undo_start(self, work: Work) -> None:
        assert work.tag is not None
        self.served_ms[work.user_id] -= work.remaining_ms
        work.tag = None

    def give_back(self, work: Work) -> None:
        """Undo the charge for what ``work``, which ends, did not use."""
        if work.tag is not None:
            self.served_ms[work.user_id] -= work.remaining_ms

    def observe(self, batch: Iterable[Work]) -> None:
        """``batch`` is served. Virtual time is the latest start of those who are."""
        for work in batch:
            if work.tag is not None and work.tag > self.virtual_ms:
                self.virtual_ms = work.tag

    def copy(self) -> Self:
        twin = type(self)()
        twin.served_ms, twin.virtual_ms = dict(self.served_ms), self.virtual_ms
        return twin


class KeyRounds:
    """Whose turn it is among batch keys. A key keeps its turn while it has credit; a step may overdraw it.

    A round has ``ROUND_MS`` to give; each key's part is as large as its part of the members.
    """

    def __init__(self) -> None:
        # In the order of their turns; the first one's is now.
        self._credit_ms: dict[BatchKey, float] = {}

    def turn(self, shares: Mapping[BatchKey, float]) -> BatchKey:
        """The key to serve among those of ``shares``, which add up to one."""
        self._credit_ms = {key: ms for key, ms in self._credit_ms.items() if key in shares}
        for key, share in shares.items():
            self._credit_ms.setdefault(key, share * ROUND_MS)
        while True:
            key, credit_ms = next(iter(self._credit_ms.items()))
            if credit_ms > 0:
                return key
            del self._credit_ms[key]
            self._credit_ms[key] = credit_ms + shares[key] * ROUND_MS

    def credit_ms(self, key: BatchKey) -> float:
        """What is left of its turn; no end where there are no turns."""
        return self._credit_ms.get(key, math.inf)

    def charge(self, key: BatchKey, ms: float) -> None:
        if key in self._credit_ms:
            self._credit_ms[key] -= ms

    def clear(self) -> None:
        """There is one key alone: no turns to take."""
        self._credit_ms.clear()

    def copy(self) -> Self:
        twin = type(self)()
        twin._credit_ms = dict(self._credit_ms)
        return twin
