"""Open-loop load on Limner, and on the same model as others would serve it, side by side.

Everything goes to a folder and is not measured twice: the same command goes on after an interruption. The
last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.baselines.gate import MAX_INSIDE
from benchmarks.loadtest import inputs, report
from benchmarks.loadtest.arrivals import ARRIVALS
from benchmarks.loadtest.book import Book
from benchmarks.loadtest.run import SYSTEMS, Plan, Run
from benchmarks.loadtest.workload import MIXES

KERNELS = ("stock", "limner", "compiled")


def parse(arguments: Sequence[str] | None = None) -> tuple[Plan, Path]:
    """The plan of a command line and the folder for it; exits with a message when it is not one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--mixes", nargs="+", choices=list(MIXES), default=["A", "B"])
    parser.add_argument("--arrivals", nargs="+", choices=ARRIVALS, default=["poisson"])
    parser.add_argument(
        "--loads", type=float, nargs="+", default=[0.3, 0.7, 1.0, 1.3], help="times the serial capacity"
    )
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--seconds", type=float, default=60.0, help="of arrivals, for each point")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/load"), help="folder for data and charts")
    parser.add_argument(
        "--kernels",
        choices=KERNELS,
        default="stock",
        help="of the baselines' UNet: diffusers' own, Limner's, or torch.compile's",
    )
    parser.add_argument(
        "--max-inside", type=int, default=MAX_INSIDE, help="requests that a baseline lets in; 0 for all"
    )
    parser.add_argument(
        "--restart-per", choices=["mix", "load"], default="mix", help="how often systems take turns"
    )
    parser.add_argument("--serial", type=int, default=60, help="requests that the serial capacity is of")
    parser.add_argument("--repeats", type=int, default=3, help="requests of each kind alone")
    chosen = parser.parse_args(arguments)
    if min(chosen.loads) <= 0 or chosen.seconds <= 0:
        parser.error("loads and seconds must be above 0")
    plan = Plan(
        mixes=tuple(chosen.mixes),
        arrivals=tuple(chosen.arrivals),
        loads=tuple(chosen.loads),
        systems=tuple(chosen.systems),
        seconds=chosen.seconds,
        seed=chosen.seed,
        kernels=chosen.kernels,
        max_inside=chosen.max_inside,
        restart_per=chosen.restart_per,
        num_serial=chosen.serial,
        repeats=chosen.repeats,
    )
    return plan, chosen.out


def main() -> None:
    plan, folder = parse()
    # So that the services end, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    book = Book(folder, plan.settings)
    run = Run(plan, book, inputs.load(folder / "inputs.json"))
    run.references()
    run.rounds()
    from benchmarks.loadtest import charts

    drawn = charts.draw(book.points, folder)
    table = report.tables(book.points)
    (folder / "tables.md").write_text(table)
    print(table)
    told = {
        "benchmark": "load",
        **plan.settings,
        "capacity": book.capacity,
        "points": len(book.points),
        "charts": [str(path) for path in drawn],
        **report.verdict(book.points),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
