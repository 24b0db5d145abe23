"""What a step costs. Knows milliseconds and row counts, not tensors."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from deployments.engine.work import BatchKey

# How far one observed step moves the estimate of its own row count. Little: a request takes some twenty
# steps, and a mean over fewer of the past follows noise that those to come do not share. The first ones move
# it further, which corrects a warm-up on a busy machine: a measured cost counts as four, a guess as one.
_LEARN = 0.04
_MEASURED, _GUESSED = 4, 1
# All the others follow half as far, as if the machine's speed had changed.
_OTHERS, _OTHERS_MOST = 0.5, 0.1
_OUTLIER = 3.0
_GUIDED_ROWS = 2
# Throughput within these parts of the best is as good as the best.
_KNEE = 0.03
# A branch that was not measured: the down path and the middle are about half of a UNet.
_BRANCH_ROWS = 0.5
# Adapters that were not measured. One that is distilled acts in every layer.
_ADAPTER_ROWS = 0.1
_FEW_STEP_ROWS = 0.3


class CostModel:
    """``step_ms(key, rows)``: measured at warm-up, interpolated between row counts, corrected online.

    A shape never measured is taken from the nearest measured one, in proportion to its latent area;
    with nothing measured at all a row costs ``default_row_ms``. A row with a branch or an adapter counts
    as more than one row: see :meth:`rows`.
    """

    def __init__(self, default_row_ms: float = 20.0) -> None:
        self._default_row_ms = default_row_ms
        self._curves: dict[BatchKey, _Curve] = {}
        self._calibrated: set[BatchKey] = set()
        self._row_counts: dict[tuple[BatchKey, int], _RowCounts] = {}
        self._branch_rows: dict[str, float] = {}
        self._adapter_rows = _ADAPTER_ROWS
        self._few_step_rows = _FEW_STEP_ROWS

    def calibrate(self, key: BatchKey, rows: int, ms: float) -> None:
        """Set a measured cost, as warm-up does."""
        self._curves.setdefault(key, _Curve({})).measured(rows, ms)
        self._calibrated.add(key)
        self._row_counts.clear()

    def calibrate_branch(self, name: str, share: float) -> None:
        """Set the measured cost of one row of a branch, as a share of a UNet row's."""
        self._branch_rows[name] = share

    def calibrate_adapters(self, share: float) -> None:
        """Set the measured cost that adapters add to a row, as a share of a UNet row's."""
        self._adapter_rows = share

    def calibrate_few_step(self, share: float) -> None:
        """Set the same of the model's own few-step adapter."""
        self._few_step_rows = share

    def rows(
        self, num_rows: int, branch: str | None, *, adapted: bool = False, few_step: bool = False
    ) -> float:
        """``num_rows`` rows on which ``branch`` acts, as a number of plain UNet rows that cost the same.

        ``adapted`` is whether they use members' adapters, ``few_step`` whether they use the model's own.
        """
        share = 0.0 if branch is None else self._branch_rows.get(branch, _BRANCH_ROWS)
        share += self._adapter_rows if adapted else 0.0
        share += self._few_step_rows if few_step else 0.0
        return num_rows * (1 + share)

    def step_ms(self, key: BatchKey, rows: float) -> float:
        """Expected duration of one step with ``rows`` UNet rows of this shape; more rows never take less."""
        curve = self._curves.get(key)
        if curve is not None:
            return curve.at(rows)
        if not self._curves:
            return self._default_row_ms * rows
        known = _nearest(key, self._curves)
        return self._curves[known].at(rows) * _area(key) / _area(known)

    def knee(self, key: BatchKey, max_rows: int) -> int:
        """The fewest rows, at most ``max_rows``, whose throughput is as good as the best of them.

        A shape that warm-up did not measure fills the device with as many latent pixels as the nearest one
        that it did; with nothing measured the knee is ``max_rows``.
        """
        return self._counts(key, max_rows).knee

    def rows_for(self, key: BatchKey, max_rows: int, load: float) -> int:
        """The fewest rows that carry ``load``, a share of the best throughput; at most the knee.

        At least as many as are worth while even when nobody else comes: a request that joins ``n`` others
        delays each of them, and is itself done sooner than if it waited. Up to where the sum of the delays is
        larger, it should join.
        """
        counts = self._counts(key, max_rows)
        return max(counts.worth_while, min(1 + bisect_left(counts.throughput, load), counts.knee))

    def _counts(self, key: BatchKey, max_rows: int) -> _RowCounts:
        counts = self._row_counts.get((key, max_rows))
        if counts is None:
            counts = self._row_counts[key, max_rows] = self._count_rows(key, max_rows)
        return counts

    def _count_rows(self, key: BatchKey, max_rows: int) -> _RowCounts:
        if not self._calibrated:
            return _RowCounts(max_rows, max_rows, [])
        known = _nearest(key, self._calibrated)
        curve, scale = self._curves[known], _area(key) / _area(known)
        return _row_counts([curve.at(rows * scale) for rows in range(1, max_rows + 1)])

    def row_ms(self, key: BatchKey, max_rows: int) -> float:
        """Cost of one row of a full batch: what a row-step is charged at."""
        return self.step_ms(key, max_rows) / max_rows

    def observe(self, key: BatchKey, rows: float, ms: float) -> None:
        """Learn from a step that took ``ms``. Other row counts drift along: the machine's speed changed.

        ``rows`` need not be whole; what it teaches counts for the nearest number that is.
        """
        expected = self.step_ms(key, rows)
        if expected <= 0 or ms <= 0:
            return
        ratio = min(max(ms / expected, 1 / _OUTLIER), _OUTLIER)
        whole = max(1, round(rows))
        whole_ms = self.step_ms(key, whole)
        self._curves.setdefault(key, _Curve({})).drift(whole, whole_ms, ratio)
        self._row_counts.clear()


class _Curve:
    """Step durations by row count: ``points`` are those measured. Never falls."""

    def __init__(self, points: dict[int, float]) -> None:
        self._points = points
        self._num_seen: dict[int, int] = {}
        self._rows: list[int] = []
        self._ms: list[float] = []

    def measured(self, rows: int, ms: float) -> None:
        self._points[rows] = ms
        self._num_seen[rows] = _MEASURED
        self._trace()

    def drift(self, rows: int, expected: float, ratio: float) -> None:
        """A step with ``rows`` took ``ratio`` times as long as ``expected``.

        Follows the mean, not the typical step: a request takes the sum of its steps, slow ones among them.
        """
        seen = self._num_seen[rows] = self._num_seen.get(rows, _GUESSED) + 1
        self._points.setdefault(rows, expected)
        learn = max(1 / seen, _LEARN)
        others = min(_OTHERS * learn, _OTHERS_MOST)
        for known in self._points:
            self._points[known] *= 1 + (ratio - 1) * (learn if known == rows else others)
        self._trace()

    def at(self, rows: float) -> float:
        """Piecewise linear; proportional below the first point, along the last slope above the last."""
        known, ms = self._rows, self._ms
        if rows <= known[0]:
            return ms[0] * max(rows / known[0], 0.5)
        if len(known) == 1:
            return ms[0] * rows / known[0]
        upper = min(bisect_left(known, rows), len(known) - 1)
        left = upper - 1
        slope = (ms[upper] - ms[left]) / (known[upper] - known[left])
        return ms[left] + slope * (rows - known[left])

    def _trace(self) -> None:
        self._rows = sorted(self._points)
        self._ms, highest = [], 0.0
        for rows in self._rows:
            highest = max(highest, self._points[rows])
            self._ms.append(highest)


class _RowCounts(NamedTuple):
    """Row counts of note; ``throughput`` of 1 row, 2 rows and so on, as shares of the best, rising."""

    knee: int
    worth_while: int
    throughput: list[float]


def _row_counts(step_ms: Sequence[float]) -> _RowCounts:
    """``step_ms`` of 1 row, 2 rows and so on."""
    rates = list(accumulate((rows / ms for rows, ms in enumerate(step_ms, 1)), max))
    throughput = [rate / rates[-1] for rate in rates]
    knee = 1 + bisect_left(throughput, 1 - _KNEE)
    rows = _GUIDED_ROWS
    # Another request beside n of two rows delays all n + 1 of them; in turn, it waits for one, on average.
    while rows + _GUIDED_ROWS <= knee:
        num_requests = rows // _GUIDED_ROWS
        delay_ms = step_ms[rows + _GUIDED_ROWS - 1] - step_ms[rows - 1]
        if delay_ms * (num_requests + 1) >= step_ms[_GUIDED_ROWS - 1]:
            break
        rows += _GUIDED_ROWS
    return _RowCounts(knee, rows, throughput)


def _area(key: BatchKey) -> int:
    return key.height * key.width


def _nearest(key: BatchKey, among: Iterable[BatchKey]) -> BatchKey:
    """The shape whose latent area is closest."""
    return min(among, key=lambda other: abs(_area(other) - _area(key)))
