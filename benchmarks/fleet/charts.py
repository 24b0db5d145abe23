"""The course of a day as a picture: ``python -m benchmarks.fleet.charts PNG TIMELINE [TIMELINE ...]``.

Timelines are what ``benchmarks.simulate day --timeline`` writes. Needs matplotlib, the extra ``bench``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw(picture: Path, timelines: Sequence[Path]) -> None:
    """GPUs that are paid for, and the 99th percentile of latency over standalone, along the day."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    courses: dict[str, Any] = {}
    for path in timelines:
        found = json.loads(path.read_text())
        for name, course in found["courses"].items():
            courses[name] = {**course, "nodes": [number / found["scale"] for number in course["nodes"]]}
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 6), sharex=True)
    for name, course in courses.items():
        above.plot(course["hour"], course["nodes"], label=name, linewidth=1)
        below.plot(course["hour"], course["p99"], label=name, linewidth=1)
    above.set_ylabel("GPUs")
    above.set_ylim(bottom=0)
    below.set_ylabel("p99 of latency over standalone")
    below.set_yscale("log")
    below.set_xlabel("hour of the day")
    below.set_xticks(range(0, 25, 2))
    above.legend(fontsize=8)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
