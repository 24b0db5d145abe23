"""Training tasks as threads of this process, with a door in the midst of each step."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from functools import partial

from core.settings import TrainingSettings
from deployments.training.attempt import Workshop
from deployments.training.class_pictures import ClassPictures
from deployments.training.work import Order, carry_out
from tests.deployments.training.workshop import MODEL, Shelves, SmallPainter, train


class Killed(BaseException):
    """What ends a thread that was stopped."""


class ThreadRuns:
    """Runs orders in threads. With ``closed_at`` a training waits in that step until its door is opened.

    ``num_nodes`` 0 leaves orders pending for ever; ``loss`` is what a run raises instead of training.
    """

    def __init__(
        self,
        shelves: Shelves,
        *,
        closed_at: int | None = None,
        num_nodes: int = 1,
        loss: Exception | None = None,
    ) -> None:
        self.shelves = shelves
        self.orders: list[Order] = []
        self.runs: list[ThreadRun] = []
        self.door = threading.Event()
        self.reached = threading.Event()
        self._closed_at, self._num_nodes, self._loss = closed_at, num_nodes, loss

    def __call__(self, order: Order) -> ThreadRun:
        self.orders.append(order)
        run = ThreadRun(self.door)
        self.runs.append(run)
        if self._num_nodes:
            threading.Thread(target=self._carry, args=(order, run), daemon=True).start()
        return run

    def _carry(self, order: Order, run: ThreadRun) -> None:
        def every_step(step: int) -> None:
            if step == self._closed_at:
                self.reached.set()
                self.door.wait()
            if run.stopped:
                raise Killed

        try:
            if self._loss is not None:
                raise self._loss
            carry_out(order, self.shelves.jobs, self.shelves.blobs, partial(train, every_step=every_step))
            run.ended.set_result(None)
        except BaseException as error:
            run.ended.set_exception(error)


class ThreadRun:
    """One order under way."""

    def __init__(self, door: threading.Event) -> None:
        self.ended: Future[None] = Future()
        self.stopped = False
        self._door = door
        self._waited = asyncio.wrap_future(self.ended)
        # Nobody asks any more how one ended that was stopped.
        self._waited.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    async def wait(self, timeout_s: float) -> bool:
        await asyncio.wait({self._waited}, timeout=timeout_s)
        if not self._waited.done():
            return False
        self._waited.result()
        return True

    def stop(self) -> None:
        if not self.ended.done():
            self.stopped = True
            self._door.set()


def workshop(
    shelves: Shelves,
    launch: ThreadRuns,
    painter: SmallPainter | None = None,
    *,
    lease_s: float = 60.0,
    max_concurrent: int = 1,
) -> Workshop:
    return Workshop(
        shelves.jobs,
        shelves.blobs,
        launch,
        ClassPictures(shelves.blobs, painter or SmallPainter(), MODEL),
        TrainingSettings(lease_s=lease_s, max_concurrent=max_concurrent),
        "cpu",
    )
