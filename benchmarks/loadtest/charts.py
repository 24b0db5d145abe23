"""The points as pictures: one PNG for each mix and kind of arrivals. Knows matplotlib and no arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from benchmarks.loadtest.book import Point

_PANELS = (
    ("goodput_per_s", "in time, pictures a second", 1.0),
    ("good_share", "in time, % of those asked for", 100.0),
    ("latency_s_p50", "median latency, s", 1.0),
    ("latency_s_p95", "95th percentile of latency, s", 1.0),
)
_LOOKS = {
    "one": ("#888888", "one at a time (Ray Serve)"),
    "batch": ("#d08a2e", "@serve.batch"),
    "litserve": ("#8e5ea2", "LitServe"),
    "limner-patient": ("#7fb2d9", "Limner, no deadline told"),
    "limner": ("#1f5fa8", "Limner"),
}


def draw(points: Sequence[Point], folder: Path) -> list[Path]:
    """The files drawn."""
    matplotlib.use("Agg")
    groups = sorted({(point["mix"], point["arrivals"]) for point in points})
    return [
        _chart(mix, arrivals, [p for p in points if (p["mix"], p["arrivals"]) == (mix, arrivals)], folder)
        for mix, arrivals in groups
    ]


def _chart(mix: str, arrivals: str, points: Sequence[Point], folder: Path) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(_PANELS), figsize=(4 * len(_PANELS), 3.6), layout="constrained")
    for axis, (name, title, scale) in zip(axes, _PANELS, strict=True):
        for system, (color, label) in _LOOKS.items():
            own = sorted(
                (point["load"], scale * point[name])
                for point in points
                if point["system"] == system and point[name] is not None
            )
            if own:
                axis.plot(*zip(*own, strict=True), marker="o", color=color, label=label)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("load, times the serial capacity")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(f"Mix {mix}, {arrivals} arrivals")
    path = folder / f"load-{mix}-{arrivals}.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
