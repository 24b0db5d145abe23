"""What the engine says about itself. Numbers only; metrics are made of them elsewhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did. False when there was nothing to do."""

    num_rows: int = 0
    num_advanced: int = 0
    num_ended: int = 0
    duration_s: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.num_advanced or self.num_ended)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine at a moment, and its sums since it started.

    ``work_s`` is what is predicted to be left to compute, ``expected_load`` the work that arrives, as a share
    of what the device can do, ``busy_s`` the time spent in steps, ``step_ms`` the last one's.
    ``prediction_error`` is the median of |predicted - real| / real over the durations of recent requests,
    ``prediction_error_p90`` nine in ten. Whenever the rows change, an adapter that is in a slot already is a
    hit, one that is brought there a load.
    """

    num_queued: int
    num_running: int
    work_s: float
    num_rows: int
    step_ms: float
    num_steps: int
    num_row_steps: int
    busy_s: float
    num_done: int
    num_failed: int
    num_cancelled: int
    num_handed_back: int
    prediction_error: float | None
    prediction_error_p90: float | None
    expected_load: float
    num_resident_adapters: int = 0
    num_adapter_loads: int = 0
    num_adapter_hits: int = 0
