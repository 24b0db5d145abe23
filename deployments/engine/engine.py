"""The denoise engine: requests in, events out, one step of one running batch at a time.

Knows how a step goes and what it leads to. Does not know Ray, text, pictures or the VAE.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch

from core.errors import InvalidRequest, LimnerError, ShuttingDown
from deployments.engine.acceleration import PLAIN, Acceleration
from deployments.engine.branch import Branch
from deployments.engine.calibration import calibrate
from deployments.engine.check import ModelShape, check, check_adapters
from deployments.engine.cost import CostModel
from deployments.engine.launched import Launched
from deployments.engine.ledger import LiveRequest, OnEvent, deliver
from deployments.engine.lora import LoraFactors
from deployments.engine.network import Network, UNet, native_key
from deployments.engine.preview import PreviewMap
from deployments.engine.report import EngineStats, StepReport
from deployments.engine.request import Accepted, Cancelled, DenoiseRequest, Done, Failed, HandedBack
from deployments.engine.roster import Roster
from deployments.engine.rows import RunningBatch
from deployments.engine.samplers import NoiseSchedule
from deployments.engine.trajectory import Trajectory, table_of
from deployments.engine.transfer import OwnStream
from deployments.engine.work import BatchKey

_NONE: Mapping[str, LoraFactors] = MappingProxyType({})


class Engine:
    """Runs many denoise requests as one batch; they join and leave at every step.

    ``branches`` are the networks beside the UNet that requests may name, of its dtype and on its device.
    ``adapter_slots`` adapters act at a time; with 0 requests may have none. ``few_step`` are the factors of
    the model's own few-step adapter, which needs no slot. ``acceleration`` changes how long steps take and
    nothing else. All but ``step``, ``warm_up`` and ``fail_all`` is thread-safe and never waits for a step.
    ``step`` belongs to one thread, which calls every ``on_event``. Each accepted request gets exactly one
    terminal event; after ``cancel`` returned True that event is ``Cancelled``.
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
        adapter_slots: int = 0,
        few_step: LoraFactors | None = None,
        preview: PreviewMap | None = None,
        acceleration: Acceleration = PLAIN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._network = Network(unet, branches, adapter_slots, few_step, max_rows, acceleration)
        self._schedule = schedule
        self._dtype, self._device = dtype, torch.device(device)
        self._stream = OwnStream(self._device, urgent=True)
        # A step that the device was given and that was not waited for yet; of the stepping thread.
        self._ahead: Launched | None = None
        self._ahead_below_ms, self._settled_at = acceleration.ahead_below_ms, -math.inf
        self._max_rows = max_rows
        self._preview, self._clock = preview, clock
        # Only the stepping thread touches the batches; the lock guards everything below them.
        self._batches: dict[BatchKey, RunningBatch] = {}
        self._changed = threading.Condition()
        self._cost = cost
        self._roster = Roster(
            cost, max_rows=max_rows, max_adapters=adapter_slots, max_queued_requests=max_queued_requests
        )
        self._draining = False
        self._forgotten: set[str] = set()
        self._last = StepReport()
        self._num_steps = self._num_row_steps = 0
        self._busy_s = 0.0

    def submit(
        self, request: DenoiseRequest, on_event: OnEvent, adapters: Mapping[str, LoraFactors] = _NONE
    ) -> Accepted:
        """Queue ``request``; every event but the returned ``Accepted`` goes to ``on_event``.

        ``adapters`` are the factors of the request's adapters by id, held until it ends. Raises
        InvalidRequest, QueueFull and DeadlineUnmeetable (with ``retry_after_s``), ShuttingDown.
        """
        check(request, ModelShape.of(self._network.unet.config), self._network.branches)
        check_adapters(request, adapters, self._network.slots)
        own = {use.adapter_id: adapters[use.adapter_id] for use in request.adapters}
        trajectory = Trajectory(request, table_of(request, self._schedule), self._schedule, own)
        with self._changed:
            if self._draining:
                raise ShuttingDown("the denoiser is shutting down")
            if request.request_id in self._roster.ledger:
                raise InvalidRequest("a request with this id is in progress", field="request_id")
            predicted_s = self._roster.admit(request, trajectory, on_event, self._clock())
            self._changed.notify_all()
        return Accepted(request.request_id, predicted_s)

    def cancel(self, request_id: str) -> bool:
        """End a request with ``Cancelled`` at the next step. False when it is not, or no longer, here."""
        with self._changed:
            if request_id not in self._roster.ledger:
                return False
            self._roster.ledger[request_id].cancelled = True
            return True

    def forget_adapter(self, adapter_id: str) -> None:
        """Free the slot of an adapter that is no more, once the requests in flight that use it have ended."""
        with self._changed:
            self._forgotten.add(adapter_id)
            self._forget_unused()

    def resident_adapters(self) -> frozenset[str]:
        """The adapters that are in slots; those forgotten no longer count."""
        with self._changed:
            slots = self._network.slots
            return frozenset() if slots is None else slots.resident - self._forgotten

    def hand_back(self, but_within_s: float = 0.0) -> None:
        """Refuse new requests, and end with ``HandedBack`` at the next step those that are here.

        But those stay that are predicted to be done ``but_within_s`` from now. Does not wait.
        """
        with self._changed:
            self._draining = True
            self._roster.dismiss(self._clock(), but_within_s)
            self._changed.notify_all()

    def wait_for_work(self) -> bool:
        """Sleep until there is something to step. False once nothing is left of what was handed back."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._roster) > 0 or self._draining)
            return len(self._roster) > 0

    def step(self) -> StepReport:
        """Schedule, denoise, advance, collect: one step of one batch. Delivers the events it causes.

        Where the device runs ahead it is given the step, and what is collected is the one before.
        """
        began = self._clock()
        with self._stream(), self._changed:
            num_gone = self._depart(began)
            chosen = self._roster.choose(began)
            outbox = self._roster.ledger.take_outbox()
        deliver(outbox)
        with self._stream():
            due = [] if self._ahead is None else [self._ahead]
            self._ahead = self._launch(chosen, began) if chosen else None
            if self._ahead is not None and not self._ahead.runs_ahead:
                due.append(self._ahead)
                self._ahead = None
            report = StepReport(num_advanced=len(chosen), num_ended=num_gone)
            for launched in due:
                report = self._settle(launched, num_gone)
        return report

    def warm_up(self, keys: Sequence[BatchKey] = ()) -> None:
        """Measure what a step costs, at several row counts of each shape; by default the UNet's own shape.

        To be called before the stepping thread starts.
        """
        with self._stream():
            for key in keys or (native_key(self._network.unet.config),):
                calibrate(self._cost, self._network, key, self._max_rows, self._dtype, self._device)

    def fail_all(self, error: LimnerError) -> None:
        """End every request with ``Failed``: for the stepping thread, when the engine itself is at fault."""
        self._ahead = None
        with self._changed:
            for live in self._roster:
                self._roster.end(live, Failed(live.request.request_id, error))
            self._let_go()
            outbox = self._roster.ledger.take_outbox()
        deliver(outbox)

    @property
    def num_queued(self) -> int:
        with self._changed:
            return self._roster.timetable.scheduler.num_queued

    @property
    def num_running(self) -> int:
        with self._changed:
            return self._roster.timetable.scheduler.num_running

    def stats(self) -> EngineStats:
        with self._changed:
            num_ended, slots = self._roster.ledger.num_ended, self._network.slots
            timetable = self._roster.timetable
            return EngineStats(
                num_queued=timetable.scheduler.num_queued,
                num_running=timetable.scheduler.num_running,
                work_s=timetable.work_s,
                num_rows=self._last.num_rows if len(self._roster) else 0,
                step_ms=self._last.duration_s * 1_000,
                num_steps=self._num_steps,
                num_row_steps=self._num_row_steps,
                busy_s=self._busy_s,
                num_done=num_ended[Done],
                num_failed=num_ended[Failed],
                num_cancelled=num_ended[Cancelled],
                num_handed_back=num_ended[HandedBack],
                prediction_error=timetable.accuracy.median,
                prediction_error_p90=timetable.accuracy.p90,
                expected_load=timetable.arrivals.steady_load(self._clock()),
                num_resident_adapters=0 if slots is None else len(slots.resident),
                num_adapter_loads=0 if slots is None else slots.num_loads,
                num_adapter_hits=0 if slots is None else slots.num_hits,
            )

    def _depart(self, now: float) -> int:
        """End what was cancelled, ran out of time or has to be handed back."""
        if any(live.leaving for live in self._roster):
            for batch in self._batches.values():
                batch.pack(())
        num_gone = self._roster.depart(now)
        if num_gone:
            self._let_go()
        return num_gone

    def _let_go(self) -> None:
        """Drop the batches and adapters that were needed for requests that have ended alone."""
        keys = {live.work.key for live in self._roster}
        self._batches = {key: batch for key, batch in self._batches.items() if key in keys}
        self._forget_unused()

    def _forget_unused(self) -> None:
        """Free what was forgotten and what no live request uses any more."""
        unused = {each for each in self._forgotten if not self._roster.uses(each)}
        self._forgotten -= unused
        for adapter_id in unused:
            if self._network.slots is not None:
                self._network.slots.forget(adapter_id)

    def _batch(self, chosen: Sequence[LiveRequest]) -> RunningBatch:
        """The running batch of their key, with exactly these members."""
        key = chosen[0].work.key
        if key not in self._batches:
            self._batches[key] = RunningBatch(self._network, self._dtype, self._device)
        batch = self._batches[key]
        batch.pack([live.trajectory for live in chosen])
        return batch

    def _launch(self, chosen: Sequence[LiveRequest], began: float) -> Launched:
        """Give the device a step of ``chosen``."""
        num_cost_rows = self._roster.num_cost_rows(chosen)
        step_ms = self._cost.step_ms(chosen[0].work.key, num_cost_rows)
        with torch.inference_mode():
            launched = Launched.of(
                self._batch(chosen),
                chosen,
                num_cost_rows=num_cost_rows,
                began=began,
                # Previews are a luxury: none while somebody waits for rows.
                previews=self._preview is not None and not self.num_queued,
                runs_ahead=step_ms < self._ahead_below_ms,
            )
        with self._changed:
            self._roster.advance(launched.advanced, still_runs=launched.runs_ahead)
        return launched

    def _settle(self, launched: Launched, num_gone: int) -> StepReport:
        """Wait for a step that was launched, and tell of it."""
        results = launched.results(self._preview)
        with self._changed:
            now = self._clock()
            # The device was busy with the step before until that was settled.
            began, self._settled_at = max(launched.began, self._settled_at), now
            num_ended = self._roster.collect(results, launched.began, now)
            if num_ended:
                self._let_go()
            report = StepReport(launched.num_rows, len(launched.chosen), num_gone + num_ended, now - began)
            self._account(report)
            if all(result.fault is None for result in results):
                key = launched.chosen[0].work.key
                self._cost.observe(key, launched.num_cost_rows, report.duration_s * 1_000)
            outbox = self._roster.ledger.take_outbox()
        deliver(outbox)
        return report

    def _account(self, report: StepReport) -> None:
        self._last = report
        self._num_steps += 1
        self._num_row_steps += report.num_rows
        self._busy_s += report.duration_s
