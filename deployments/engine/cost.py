"""What a step costs, and when requests will be finished. Knows milliseconds and row counts, not tensors."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

from deployments.engine.scheduler import BatchKey, Scheduler

# How far one observed step moves the estimate of its own row count, and those of all the others.
_LEARN = 0.2
_LEARN_OTHERS = 0.05
_OUTLIER = 4.0
_NUM_REMEMBERED = 256
# A branch that was not measured: the down path and the middle are about half of a UNet.
_BRANCH_ROWS = 0.5
# Adapters that were not measured.
_ADAPTER_ROWS = 0.1


class CostModel:
    """``step_ms(key, rows)``: measured at warm-up, interpolated between row counts, corrected online.

    A shape never measured is taken from the nearest measured one, in proportion to its latent area;
    with nothing measured at all a row costs ``default_row_ms``. A row with a branch or an adapter counts
    as more than one row: see :meth:`rows`.
    """

    def __init__(self, default_row_ms: float = 20.0) -> None:
        self._default_row_ms = default_row_ms
        self._points: dict[BatchKey, dict[int, float]] = {}
        self._branch_rows: dict[str, float] = {}
        self._adapter_rows = _ADAPTER_ROWS
        self._errors: deque[float] = deque(maxlen=_NUM_REMEMBERED)

    def calibrate(self, key: BatchKey, rows: int, ms: float) -> None:
        """Set a measured cost, as warm-up does."""
        self._points.setdefault(key, {})[rows] = ms

    def calibrate_branch(self, name: str, share: float) -> None:
        """Set the measured cost of one row of a branch, as a share of a UNet row's."""
        self._branch_rows[name] = share

    def calibrate_adapters(self, share: float) -> None:
        """Set the measured cost that adapters add to a row, as a share of a UNet row's."""
        self._adapter_rows = share

    def rows(self, num_rows: int, branch: str | None, *, adapted: bool = False) -> float:
        """``num_rows`` rows on which ``branch`` acts, as a number of plain UNet rows that cost the same.

        ``adapted`` is whether they use adapters.
        """
        share = 0.0 if branch is None else self._branch_rows.get(branch, _BRANCH_ROWS)
        return num_rows * (1 + share + (self._adapter_rows if adapted else 0.0))

    def step_ms(self, key: BatchKey, rows: float) -> float:
        """Expected duration of one step with ``rows`` UNet rows of this shape."""
        points = self._points.get(key)
        if points:
            return _interpolate(points, rows)
        if not self._points:
            return self._default_row_ms * rows
        area = key.height * key.width
        known = min(self._points, key=lambda other: abs(other.height * other.width - area))
        return _interpolate(self._points[known], rows) * area / (known.height * known.width)

    def row_ms(self, key: BatchKey, max_rows: int) -> float:
        """Cost of one row of a full batch: what a row-step is charged at."""
        return self.step_ms(key, max_rows) / max_rows

    def observe(self, key: BatchKey, rows: int, ms: float) -> None:
        """Learn from a step that took ``ms``. Other row counts drift along: the machine's speed changed."""
        expected = self.step_ms(key, rows)
        if expected <= 0 or ms <= 0:
            return
        ratio = min(max(ms / expected, 1 / _OUTLIER), _OUTLIER)
        points = self._points.setdefault(key, {})
        for known in points:
            points[known] *= ratio ** (_LEARN if known == rows else _LEARN_OTHERS)
        points.setdefault(rows, expected * ratio**_LEARN)

    def observe_finish(self, predicted_s: float, real_s: float) -> None:
        """Compare the duration predicted at admission with the real one."""
        if real_s > 0:
            self._errors.append(abs(predicted_s - real_s) / real_s)

    @property
    def prediction_error(self) -> float | None:
        """Median relative error of the predicted finishes of late; None before the first."""
        return median(self._errors) if self._errors else None


def _interpolate(points: dict[int, float], rows: float) -> float:
    """Piecewise linear; proportional below the first point, along the last slope above the last."""
    known = sorted(points)
    if rows <= known[0]:
        return points[known[0]] * max(rows / known[0], 0.5)
    if len(known) == 1:
        return points[known[0]] * rows / known[0]
    upper = next((index for index, at in enumerate(known) if at >= rows), len(known) - 1)
    left, right = known[upper - 1], known[upper]
    slope = (points[right] - points[left]) / (right - left)
    return points[left] + max(slope, 0.0) * (rows - left)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Clock times at which requests are expected to finish, and the first queued one to start."""

    finish_at: dict[str, float]
    first_start_at: float
    made_at: float


def forecast(scheduler: Scheduler, cost: CostModel, now: float) -> Forecast:
    """Play the current work forward under the scheduler's own policy, as if nothing else arrived.

    Jumps from one change of the batch to the next, so it costs one scheduling decision per request.
    """
    future = scheduler.copy()
    finish_at: dict[str, float] = {}
    made_at = first_start_at = now
    waiting = {work.request_id for work in future if work.tag is None}
    num_waiting = len(waiting)
    while batch := future.next_batch(now):
        if len(waiting) == num_waiting:
            waiting.difference_update(work.request_id for work in batch)
            first_start_at = now
        num_steps = min(work.num_steps for work in batch)
        rows = sum(work.row_steps / work.num_steps for work in batch)
        now += num_steps * cost.step_ms(batch[0].key, rows) / 1_000
        for work in batch:
            work.advance(num_steps, work.row_steps * num_steps / work.num_steps)
            if work.num_steps == 0:
                finish_at[work.request_id] = now
                future.remove(work.request_id)
    return Forecast(finish_at, first_start_at, made_at)
