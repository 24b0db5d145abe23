"""The denoise engine: requests in, events out, one step of one running batch at a time.

Knows how a step goes and what it leads to. Does not know Ray, text, pictures or the VAE.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.errors import DeadlineExceeded, InvalidRequest, LimnerError, ShuttingDown
from deployments.engine.admission import admit, cost_rows, work_of
from deployments.engine.branch import Branch
from deployments.engine.check import ModelShape, check
from deployments.engine.cost import CostModel, Forecast, forecast
from deployments.engine.ledger import Ledger, LiveRequest, OnEvent, deliver
from deployments.engine.network import Network, UNet, calibrate, native_key
from deployments.engine.preview import PreviewMap
from deployments.engine.report import EngineStats, StepReport
from deployments.engine.request import (
    Accepted,
    Cancelled,
    DenoiseRequest,
    Done,
    Failed,
    HandedBack,
    Previewed,
    Progressed,
    TerminalEvent,
)
from deployments.engine.rows import RunningBatch
from deployments.engine.samplers import NoiseSchedule
from deployments.engine.scheduler import BatchKey, Scheduler
from deployments.engine.trajectory import Trajectory, table_of

# An outlook older than this is made anew, so that progress events follow a drifting step time.
_OUTLOOK_AGE_S = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class _Result:
    """What a step left of one request: ``latents`` once it is finished, CPU float32."""

    live: LiveRequest
    fault: LimnerError | None = None
    latents: Tensor | None = None
    preview: npt.NDArray[np.uint8] | None = None


class Engine:
    """Runs many denoise requests as one batch; they join and leave at every step.

    ``branches`` are the networks beside the UNet that requests may name, of its dtype and on its device.
    ``submit``, ``cancel``, ``hand_back``, ``stats`` and the counts are thread-safe and never wait for a
    step. ``step`` belongs to one thread, which calls every ``on_event``. Each accepted request gets
    exactly one terminal event; after ``cancel`` returned True that event is ``Cancelled``.
    """

    def __init__(
        self,
        unet: UNet,
        schedule: NoiseSchedule,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        max_rows: int,
        max_queued_requests: int,
        cost: CostModel,
        branches: Mapping[str, Branch] | None = None,
        preview: PreviewMap | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._network, self._schedule = Network(unet, branches), schedule
        self._dtype, self._device = dtype, torch.device(device)
        self._max_rows, self._max_queued_requests = max_rows, max_queued_requests
        self._preview, self._clock = preview, clock
        # Only the stepping thread touches the batches; the lock guards everything below them.
        self._batches: dict[BatchKey, RunningBatch] = {}
        self._changed = threading.Condition()
        self._cost = cost
        self._scheduler = Scheduler(max_rows)
        self._ledger = Ledger()
        self._handing_back = False
        self._outlook = Forecast({}, 0.0, made_at=0.0)
        self._last = StepReport()
        self._num_steps = self._num_row_steps = 0

    def submit(self, request: DenoiseRequest, on_event: OnEvent) -> Accepted:
        """Queue ``request``; every event but the returned ``Accepted`` goes to ``on_event``.

        Raises InvalidRequest, QueueFull and DeadlineUnmeetable (with ``retry_after_s``), ShuttingDown.
        """
        check(request, ModelShape.of(self._network.unet.config), self._network.branches)
        trajectory = Trajectory(request, table_of(request, self._schedule), self._schedule)
        with self._changed:
            if self._handing_back:
                raise ShuttingDown("the denoiser is shutting down")
            if request.request_id in self._ledger:
                raise InvalidRequest("a request with this id is in progress", field="request_id")
            now = self._clock()
            work = work_of(request, now, self._cost, self._max_rows)
            self._outlook = admit(
                self._scheduler,
                work,
                self._cost,
                now=now,
                deadline_s=request.deadline_s,
                max_queued_requests=self._max_queued_requests,
            )
            predicted_s = self._outlook.finish_at[request.request_id] - now
            self._ledger.add(LiveRequest(request, trajectory, work, on_event, now, predicted_s))
            self._changed.notify_all()
        return Accepted(request.request_id, predicted_s)

    def cancel(self, request_id: str) -> bool:
        """End a request with ``Cancelled`` at the next step. False when it is not, or no longer, here."""
        with self._changed:
            if request_id not in self._ledger:
                return False
            self._ledger[request_id].cancelled = True
            return True

    def hand_back(self) -> None:
        """End every request with ``HandedBack`` at the next step and refuse new ones. Does not wait."""
        with self._changed:
            self._handing_back = True
            self._changed.notify_all()

    def wait_for_work(self) -> bool:
        """Sleep until there is something to step. False once everything has been handed back."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._ledger) > 0 or self._handing_back)
            return len(self._ledger) > 0

    def step(self) -> StepReport:
        """Schedule, denoise, advance, collect: one step of one batch. Delivers the events it causes."""
        began = self._clock()
        with self._changed:
            num_gone = self._depart(began)
            chosen = [self._ledger[work.request_id] for work in self._scheduler.next_batch(began)]
            outbox = self._ledger.take_outbox()
        deliver(outbox)
        if not chosen:
            return StepReport(num_ended=num_gone)
        with torch.inference_mode():
            batch = self._batch(chosen)
            num_rows = batch.num_rows
            num_cost_rows = self._num_cost_rows(chosen)
            faults = batch.step()
        results = [self._result(batch, live, faults.get(live.trajectory)) for live in chosen]
        with self._changed:
            num_ended = self._collect(results, began)
            report = StepReport(num_rows, len(chosen), num_gone + num_ended, self._clock() - began)
            self._account(report)
            if not faults:
                self._cost.observe(chosen[0].work.key, num_cost_rows, report.duration_s * 1_000)
            outbox = self._ledger.take_outbox()
        deliver(outbox)
        return report

    def warm_up(self, keys: Sequence[BatchKey] = ()) -> None:
        """Measure what a step costs, at several row counts of each shape; by default the UNet's own shape.

        To be called before the stepping thread starts.
        """
        for key in keys or (native_key(self._network.unet.config),):
            calibrate(self._cost, self._network, key, self._max_rows, self._dtype, self._device)

    def fail_all(self, error: LimnerError) -> None:
        """End every request with ``Failed``: for the stepping thread, when the engine itself is at fault."""
        with self._changed:
            for live in self._ledger:
                self._end(live, Failed(live.request.request_id, error))
            self._batches.clear()
            outbox = self._ledger.take_outbox()
        deliver(outbox)

    @property
    def num_queued(self) -> int:
        with self._changed:
            return self._scheduler.num_queued

    @property
    def num_running(self) -> int:
        with self._changed:
            return self._scheduler.num_running

    def stats(self) -> EngineStats:
        with self._changed:
            num_ended = self._ledger.num_ended
            return EngineStats(
                num_queued=self._scheduler.num_queued,
                num_running=self._scheduler.num_running,
                work_s=sum(work.remaining_ms for work in self._scheduler) / 1_000,
                num_rows=self._last.num_rows if len(self._ledger) else 0,
                step_ms=self._last.duration_s * 1_000,
                num_steps=self._num_steps,
                num_row_steps=self._num_row_steps,
                num_done=num_ended[Done],
                num_failed=num_ended[Failed],
                num_cancelled=num_ended[Cancelled],
                num_handed_back=num_ended[HandedBack],
                prediction_error=self._cost.prediction_error,
            )

    def _depart(self, now: float) -> int:
        """End what was cancelled, ran out of time or has to be handed back."""
        num_before = len(self._ledger)
        if self._handing_back:
            for batch in self._batches.values():
                batch.pack(())
        for live in self._ledger:
            request_id = live.request.request_id
            if live.cancelled:
                self._end(live, Cancelled(request_id))
            elif live.expired(now):
                self._end(live, Failed(request_id, DeadlineExceeded("the deadline passed before the end")))
            elif self._handing_back:
                snapshot = live.trajectory.snapshot() if live.trajectory.started else None
                self._end(live, HandedBack(request_id, snapshot))
        keys = {live.work.key for live in self._ledger}
        self._batches = {key: batch for key, batch in self._batches.items() if key in keys}
        return num_before - len(self._ledger)

    def _batch(self, chosen: Sequence[LiveRequest]) -> RunningBatch:
        """The running batch of their key, with exactly these members."""
        key = chosen[0].work.key
        if key not in self._batches:
            self._batches[key] = RunningBatch(self._network, self._dtype, self._device)
        batch = self._batches[key]
        batch.pack([live.trajectory for live in chosen])
        return batch

    def _result(self, batch: RunningBatch, live: LiveRequest, fault: LimnerError | None) -> _Result:
        if fault is not None:
            return _Result(live, fault=fault)
        if live.trajectory.finished:
            return _Result(live, latents=batch.latents_of(live.trajectory))
        every = live.request.preview_every
        # Previews are a luxury: none while somebody waits for rows.
        if self._preview is None or not every or live.steps_done % every or self.num_queued:
            return _Result(live)
        return _Result(live, preview=self._preview.picture(batch.origin_of(live.trajectory)))

    def _collect(self, results: Sequence[_Result], began: float) -> int:
        """Turn the step's results into events; returns how many requests it ended."""
        now, num_before = self._clock(), len(self._ledger)
        going_on = []
        for result in results:
            live = result.live
            live.started_at = began if live.started_at is None else live.started_at
            if result.fault is not None:
                self._end(live, Failed(live.request.request_id, result.fault))
                continue
            live.work.advance(1, cost_rows(live.request, live.trajectory.step - 1, self._cost))
            if result.latents is None:
                going_on.append(result)
            else:
                self._finish(live, result.latents, live.started_at, now)
        num_ended = num_before - len(self._ledger)
        if num_ended or now - self._outlook.made_at > _OUTLOOK_AGE_S:
            self._outlook = forecast(self._scheduler, self._cost, now)
        for result in going_on:
            self._report_progress(result, now)
        return num_ended

    def _finish(self, live: LiveRequest, latents: Tensor, started_at: float, now: float) -> None:
        request_id, num_steps = live.request.request_id, live.num_steps
        self._ledger.tell(live, Progressed(request_id, num_steps, num_steps, 0.0))
        queued_s, denoise_s = started_at - live.accepted_at, now - started_at
        self._end(live, Done(request_id, latents, num_steps, queued_s, denoise_s))
        self._cost.observe_finish(live.predicted_s, now - live.accepted_at)

    def _report_progress(self, result: _Result, now: float) -> None:
        live, request_id = result.live, result.live.request.request_id
        remaining_s = max(self._outlook.finish_at[request_id] - now, 0.0)
        self._ledger.tell(live, Progressed(request_id, live.steps_done, live.num_steps, remaining_s))
        if result.preview is not None:
            self._ledger.tell(live, Previewed(request_id, live.steps_done, result.preview))

    def _account(self, report: StepReport) -> None:
        self._last = report
        self._num_steps += 1
        self._num_row_steps += report.num_rows

    def _num_cost_rows(self, chosen: Sequence[LiveRequest]) -> int:
        """The coming step's rows, as plain UNet rows of the same cost."""
        return round(sum(cost_rows(live.request, live.trajectory.step, self._cost) for live in chosen))

    def _end(self, live: LiveRequest, event: TerminalEvent) -> None:
        self._ledger.end(live, event)
        self._scheduler.remove(live.request.request_id)
