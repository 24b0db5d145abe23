"""An engine's numbers and its adapters' as metrics of Ray. Knows no engine, only what it reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge, Histogram, Metric

if TYPE_CHECKING:
    from deployments.engine.report import EngineStats
    from deployments.pipeline.adapter_cache import CacheStats

_LABELS = ("deployment",)


class EngineMeters:
    """The engine's numbers as Ray metrics, which Prometheus scrapes with the prefix ``ray_``."""

    def __init__(self, deployment: str) -> None:
        self._steps = Counter("limner_denoise_steps", "UNet steps.", _LABELS)
        self._row_steps = Counter("limner_denoise_row_steps", "Rows of all UNet steps.", _LABELS)
        self._busy = Counter("limner_denoise_busy_s", "Seconds spent in UNet steps.", _LABELS)
        self._rows = Histogram(
            "limner_denoise_rows", "Mean rows per step, each half second.", [1, 2, 4, 8, 16, 32, 64], _LABELS
        )
        self._gauges = {
            "num_queued": Gauge("limner_denoise_queued_requests", "Requests that wait.", _LABELS),
            "num_running": Gauge(
                "limner_denoise_running_requests", "Requests in the running batch.", _LABELS
            ),
            "work_s": Gauge("limner_denoise_work_s", "Predicted seconds of accepted work.", _LABELS),
            "step_ms": Gauge("limner_denoise_step_ms", "Duration of the last step.", _LABELS),
            "prediction_error": Gauge(
                "limner_denoise_prediction_error", "Median relative error of predicted finishes.", _LABELS
            ),
            "prediction_error_p90": Gauge(
                "limner_denoise_prediction_error_p90",
                "Nine in ten predicted finishes err less, relatively.",
                _LABELS,
            ),
            "expected_load": Gauge(
                "limner_denoise_expected_load",
                "Work that arrives, as a share of what the device can do.",
                _LABELS,
            ),
        }
        self._adapter_counters = {
            "num_hits": Counter(
                "limner_adapter_cache_hits", "Adapters that were in memory or on their way.", _LABELS
            ),
            "num_loads": Counter("limner_adapter_cache_loads", "Adapters read from the store.", _LABELS),
            "num_evictions": Counter(
                "limner_adapter_cache_evictions", "Adapters that made way for others.", _LABELS
            ),
        }
        self._adapter_gauges = {
            "num_resident": Gauge("limner_adapter_cache_resident", "Adapters in the host's memory.", _LABELS),
            "num_bytes": Gauge("limner_adapter_cache_bytes", "Bytes of them.", _LABELS),
        }
        self._slots = Gauge("limner_adapter_slots_used", "Adapters on the device.", _LABELS)
        made: list[Metric] = [self._steps, self._row_steps, self._busy, self._rows, self._slots]
        made += [*self._gauges.values(), *self._adapter_counters.values(), *self._adapter_gauges.values()]
        for metric in made:
            metric.set_default_tags({"deployment": deployment})
        self._seen = (0, 0, 0.0)
        self._adapters_seen = dict.fromkeys(self._adapter_counters, 0)

    def record(self, stats: EngineStats) -> None:
        for name, gauge in self._gauges.items():
            value = getattr(stats, name)
            if value is not None:
                gauge.set(value)
        num_steps, num_row_steps = stats.num_steps - self._seen[0], stats.num_row_steps - self._seen[1]
        busy_s = stats.busy_s - self._seen[2]
        self._seen = (stats.num_steps, stats.num_row_steps, stats.busy_s)
        if num_steps > 0:
            self._busy.inc(busy_s)
            self._steps.inc(num_steps)
            self._row_steps.inc(num_row_steps)
            self._rows.observe(num_row_steps / num_steps)

    def record_adapters(self, stats: CacheStats, num_in_slots: int) -> None:
        for name, gauge in self._adapter_gauges.items():
            gauge.set(getattr(stats, name))
        self._slots.set(num_in_slots)
        for name, counter in self._adapter_counters.items():
            count = getattr(stats, name)
            if count > self._adapters_seen[name]:
                counter.inc(count - self._adapters_seen[name])
            self._adapters_seen[name] = count
