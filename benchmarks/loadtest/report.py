"""The points as a table in Markdown, and as one line of JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from benchmarks.loadtest.book import KEY, Point

OURS = ("limner", "limner-patient")
GOAL = 1.2
PREDICTION_GOAL = 0.1
_COLUMNS = (
    ("load", "load"),
    ("system", "system"),
    ("good", "in time"),
    ("good_share", "share"),
    ("goodput_per_s", "goodput /s"),
    ("refused", "refused"),
    ("expired", "expired"),
    ("failed", "failed"),
    ("latency_s_p50", "p50 s"),
    ("latency_s_p95", "p95 s"),
    ("latency_s_p99", "p99 s"),
    ("rows_per_step", "rows/step"),
    ("cpu_s_per_picture", "CPU s/picture"),
    ("fairness", "Jain"),
    ("prediction_error", "prediction error"),
    ("training_steps", "trained steps"),
    ("probe_ms", "probe ms"),
)


def tables(points: Sequence[Point]) -> str:
    """A table for each mix and kind of arrivals."""
    told = []
    for (mix, arrivals), group in sorted(_grouped(points, "mix", "arrivals").items()):
        told.append(f"### Mix {mix}, {arrivals} arrivals\n")
        told.append("| " + " | ".join(title for _, title in _COLUMNS) + " |")
        told.append("| " + " | ".join("---" for _ in _COLUMNS) + " |")
        for point in sorted(group, key=lambda each: (each["load"], each["system"])):
            cells = [_cell(name, point) for name, _ in _COLUMNS]
            told.append("| " + " | ".join(cells) + " |")
        told.append("")
    return "\n".join(told)


def _cell(name: str, point: Point) -> str:
    value = point.get(name)
    if value is None:
        return "–"
    if name == "good":
        return f"{value} of {point['offered']}"
    if name in ("good_share", "prediction_error"):
        return f"{100 * value:.1f} %"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def comparison(points: Sequence[Point]) -> list[dict[str, Any]]:
    """For each mix and kind of arrivals how many times as many good answers Limner gives as each other.

    ``by_load`` at each load, ``all`` over all loads together, ``peak`` the best rate of any load.
    """
    found = []
    for (mix, arrivals), group in sorted(_grouped(points, "mix", "arrivals").items()):
        systems = _grouped(group, "system")
        for (own,) in [key for key in systems if key[0] in OURS]:
            for (other,) in [key for key in systems if key[0] not in OURS]:
                ratios = _ratios(systems[(own,)], systems[(other,)])
                if ratios:
                    found.append({"mix": mix, "arrivals": arrivals, "system": own, "to": other, **ratios})
    return found


def _ratios(own: Iterable[Point], other: Iterable[Point]) -> dict[str, Any]:
    pairs = [(a, b) for a in own for b in other if a["load"] == b["load"]]
    if not pairs:
        return {}
    return {
        "by_load": {str(a["load"]): _ratio(a["good"], b["good"]) for a, b in pairs},
        "all": _ratio(sum(a["good"] for a, _ in pairs), sum(b["good"] for _, b in pairs)),
        "peak": _ratio(max(a["goodput_per_s"] for a, _ in pairs), max(b["goodput_per_s"] for _, b in pairs)),
        "work_all": _ratio(
            sum(a["work_goodput"] for a, _ in pairs), sum(b["work_goodput"] for _, b in pairs)
        ),
    }


def _ratio(ours: float, theirs: float) -> float | None:
    return round(ours / theirs, 3) if theirs else None


def verdict(points: Sequence[Point]) -> dict[str, Any]:
    """The goals, and whether they are met by each way to ask Limner."""
    compared = comparison(points)
    told: dict[str, Any] = {
        "comparison": compared,
        # Points in which the client itself was late; what they say of the service is doubtful.
        "late_client": [{name: point[name] for name in KEY} for point in points if point.get("late")],
    }
    for own in OURS:
        ratios = [each for each in compared if each["system"] == own]
        errors = [p["prediction_error"] for p in points if p["system"] == own and p.get("prediction_error")]
        if not ratios:
            continue
        worst = min((each["all"] for each in ratios if each["all"] is not None), default=None)
        told[own] = {
            "least_ratio": worst,
            "goal": GOAL,
            "met": worst is not None and worst >= GOAL,
            "behind_in": [
                f"{each['mix']} {each['arrivals']} load {load} to {each['to']}"
                for each in ratios
                for load, ratio in each["by_load"].items()
                if ratio is not None and ratio < 1
            ],
            "prediction_error": round(median(errors), 4) if errors else None,
            "prediction_met": bool(errors) and median(errors) <= PREDICTION_GOAL,
        }
    return told


def _grouped(points: Iterable[Point], *names: str) -> dict[tuple[Any, ...], list[Point]]:
    groups: dict[tuple[Any, ...], list[Point]] = defaultdict(list)
    for point in points:
        groups[tuple(point[name] for name in names)].append(point)
    return dict(groups)
