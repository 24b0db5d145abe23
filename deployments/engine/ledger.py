"""Who is in the engine and how each of them ended: exactly one terminal event per accepted request.

Knows requests and their listeners; does not know tensors' values, steps or the order of service.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from core.telemetry import log, logger
from deployments.engine.request import Cancelled, DenoiseEvent, DenoiseRequest, TerminalEvent
from deployments.engine.trajectory import Trajectory
from deployments.engine.work import Work

OnEvent = Callable[[DenoiseEvent], None]

_LOG = logger(__name__)


@dataclass(slots=True, eq=False)
class LiveRequest:
    """An accepted request that has not ended. Times are clock times; ``predicted_s`` is from acceptance.

    One that is ``leaving`` is handed back at the next step.
    """

    request: DenoiseRequest
    trajectory: Trajectory
    work: Work
    on_event: OnEvent
    accepted_at: float
    predicted_s: float
    started_at: float | None = None
    cancelled: bool = False
    leaving: bool = False

    @property
    def num_steps(self) -> int:
        return self.request.num_inference_steps - self.request.start_step

    @property
    def steps_done(self) -> int:
        return self.trajectory.step - self.request.start_step

    def expired(self, now: float) -> bool:
        deadline_s = self.request.deadline_s
        return deadline_s is not None and now >= self.accepted_at + deadline_s


class Ledger:
    """The live requests by id, and the events that wait for delivery. The engine's lock guards it."""

    def __init__(self) -> None:
        self._live: dict[str, LiveRequest] = {}
        self._outbox: list[tuple[OnEvent, DenoiseEvent]] = []
        self.num_ended: Counter[type[TerminalEvent]] = Counter()

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[LiveRequest]:
        """The live requests as they are now; they may end meanwhile."""
        return iter(list(self._live.values()))

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._live

    def __getitem__(self, request_id: str) -> LiveRequest:
        return self._live[request_id]

    def holds(self, live: LiveRequest) -> bool:
        """Whether ``live`` has not ended."""
        return self._live.get(live.request.request_id) is live

    def add(self, live: LiveRequest) -> None:
        assert live.request.request_id not in self._live
        self._live[live.request.request_id] = live

    def end(self, live: LiveRequest, event: TerminalEvent) -> None:
        """The one place where a request ends. A promised cancellation comes before any other end."""
        if live.cancelled:
            event = Cancelled(live.request.request_id)
        del self._live[live.request.request_id]
        self.num_ended[type(event)] += 1
        self.tell(live, event)

    def tell(self, live: LiveRequest, event: DenoiseEvent) -> None:
        self._outbox.append((live.on_event, event))

    def take_outbox(self) -> list[tuple[OnEvent, DenoiseEvent]]:
        outbox, self._outbox = self._outbox, []
        return outbox


def deliver(outbox: list[tuple[OnEvent, DenoiseEvent]]) -> None:
    """Call the listeners. One that raises is logged and hurts nobody else."""
    for on_event, event in outbox:
        try:
            on_event(event)
        except Exception as error:
            log(_LOG, logging.ERROR, "listener raised", error=type(error).__name__)
