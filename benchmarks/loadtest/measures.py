"""What the outcomes of a point amount to. Arithmetic alone; every figure can be checked by hand."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

from benchmarks.loadtest.client import CANCELLED, EXPIRED, FAILED, OK, REFUSED, Outcome

# An answer is good within so many times what the request takes on an idle one-at-a-time service.
LIMIT = 3.0
# A client that is later than this measures itself.
_LATE_S = 0.1


def jain(shares: Sequence[float]) -> float:
    """Jain's index: 1 where all shares are equal, 1 / n where one has everything; 1 where nobody has any."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def fair_parts(wanted: Mapping[str, float], supply: float) -> dict[str, float]:
    """``supply`` divided so that nobody gets more than wanted, and all others equally much (max-min)."""
    parts: dict[str, float] = {}
    left, waiting = supply, sorted(wanted, key=lambda name: wanted[name])
    for number, name in enumerate(waiting):
        parts[name] = min(wanted[name], left / (len(waiting) - number))
        left -= parts[name]
    return parts


def fairness(outcomes: Iterable[Outcome], alone_s: Mapping[str, float]) -> float:
    """Jain's index of how much of its fair part each member got in time, in seconds of standalone work.

    Where everybody is served it is 1, however different their demands.
    """
    wanted: dict[str, float] = defaultdict(float)
    got: dict[str, float] = defaultdict(float)
    for outcome in outcomes:
        if outcome.status == CANCELLED:
            continue
        work = alone_s[outcome.asked.kind]
        wanted[outcome.asked.member] += work
        got[outcome.asked.member] += work if is_good(outcome, alone_s) else 0.0
    parts = fair_parts(wanted, sum(got.values()))
    return jain([min(1.0, got[name] / part) for name, part in parts.items() if part > 0])


def is_good(outcome: Outcome, alone_s: Mapping[str, float]) -> bool:
    """Whether the picture came in time."""
    return outcome.status == OK and outcome.latency_s <= LIMIT * alone_s[outcome.asked.kind]


def prediction_errors(outcomes: Iterable[Outcome]) -> list[float]:
    """|foretold - real| / real, from when the request was sent."""
    return [
        abs(outcome.predicted_s - real_s) / real_s
        for outcome in outcomes
        if outcome.status == OK
        and outcome.predicted_s is not None
        and (real_s := outcome.latency_s - outcome.late_s) > 0
    ]


def summary(outcomes: Sequence[Outcome], alone_s: Mapping[str, float], duration_s: float) -> dict[str, Any]:
    """Figures of one point. ``slowdown`` is latency over that of the class alone."""
    counts = Counter(outcome.status for outcome in outcomes)
    good = sum(is_good(outcome, alone_s) for outcome in outcomes)
    # Who hung up wanted no picture any more.
    offered = len(outcomes) - counts[CANCELLED]
    done = [outcome for outcome in outcomes if outcome.status == OK]
    latencies = [outcome.latency_s for outcome in done]
    errors = prediction_errors(outcomes)
    late = [outcome.late_s for outcome in outcomes]
    return {
        "offered": offered,
        "good": good,
        "good_share": _rounded(good / offered) if offered else None,
        "goodput_per_s": _rounded(good / duration_s),
        "work_goodput": _rounded(_good_work(outcomes, alone_s) / duration_s),
        "done": counts[OK],
        "refused": counts[REFUSED],
        "expired": counts[EXPIRED],
        "failed": counts[FAILED],
        "cancelled": counts[CANCELLED],
        **_percentiles("latency_s", latencies),
        **_percentiles("slowdown", [each.latency_s / alone_s[each.asked.kind] for each in done]),
        "fairness": _rounded(fairness(outcomes, alone_s)),
        "predicted": len(errors),
        "prediction_error": _rounded(median(errors)) if errors else None,
        "prediction_error_p90": _rounded(_percentile(errors, 90)) if errors else None,
        "late_max_s": _rounded(max(late, default=0.0)),
        "late": sum(each > _LATE_S for each in late),
        "pipelines": _by_pipeline(outcomes, alone_s),
    }


def _good_work(outcomes: Iterable[Outcome], alone_s: Mapping[str, float]) -> float:
    """Standalone seconds of what was good: refusing long requests adds to the number of good ones alone."""
    return sum(alone_s[each.asked.kind] for each in outcomes if is_good(each, alone_s))


def _by_pipeline(outcomes: Sequence[Outcome], alone_s: Mapping[str, float]) -> dict[str, dict[str, int]]:
    offered: Counter[str] = Counter()
    good: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.status != CANCELLED:
            offered[outcome.asked.pipeline] += 1
            good[outcome.asked.pipeline] += is_good(outcome, alone_s)
    return {name: {"offered": offered[name], "good": good[name]} for name in sorted(offered)}


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float | None]:
    return {
        f"{name}_p{share}": _rounded(_percentile(values, share)) if values else None for share in (50, 95, 99)
    }


def _percentile(values: Sequence[float], share: int) -> float:
    """Linear between the nearest ranks; of a single value that value."""
    return values[0] if len(values) == 1 else quantiles(values, n=100, method="inclusive")[share - 1]


def _rounded(value: float) -> float:
    return round(value, 4)


def cost(counted: Mapping[str, float], num_done: int, cpu_s: float | None) -> dict[str, float | None]:
    """What a picture costs, from the sums of a point.

    ``padding`` is the share of the UNet's rows that belongs to nobody: none of the systems pads on a CPU,
    so it is there for GPUs' row buckets.
    """
    return {
        "rows_per_step": _rounded(counted["row_steps"] / counted["steps"]) if counted["steps"] else None,
        "padding": 0.0,
        "busy_s_per_picture": _rounded(counted["busy_s"] / num_done) if num_done else None,
        "cpu_s_per_picture": _rounded(cpu_s / num_done) if num_done and cpu_s is not None else None,
    }
