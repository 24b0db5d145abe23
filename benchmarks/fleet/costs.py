"""What a request costs beside GPUs, measured in this process: rows in the store, choosing a Denoiser."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deployments.engine.fairness import MemberShares
from deployments.engine.work import BatchKey, Work

_NUM_JOBS = 100
_REPEATS = 5


def store_costs() -> dict[str, Any]:
    """Milliseconds of a job's five writes, one after the other, and of the reads of one who follows it.

    SQLite lets one write at a time and waits for the disk at each commit, so its writes cannot overlap.
    """
    from store.db import open_database
    from store.jobs import Jobs

    wall, processor, reads = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        engine = open_database(f"sqlite:///{Path(folder) / 'limner.db'}")
        jobs = Jobs(engine)
        for number in range(_NUM_JOBS):
            began, cpu = time.perf_counter(), time.process_time()
            job_id = _life_of_a_job(jobs, number)
            wall.append(time.perf_counter() - began)
            processor.append(time.process_time() - cpu)
            began = time.perf_counter()
            jobs.get(job_id, f"m{number}")
            jobs.events(job_id)
            reads.append(time.perf_counter() - began)
        engine.dispose()
    return {
        "writes_per_job": 5,
        "job_wall_ms": _ms(statistics.median(wall)),
        "job_cpu_ms": _ms(statistics.median(processor)),
        "poll_ms": _ms(statistics.median(reads)),
    }


def choosing_costs() -> dict[str, Any]:
    """Microseconds to choose one of so many Denoisers for a request with an adapter, 30 adapters in each."""
    from deployments.serving.affinity import Candidate, choose

    draw = random.Random(0)
    taken = {}
    for number in (1, 10, 100, 1_000, 2_000):
        candidates = [
            Candidate(
                f"replica{i}", draw.randrange(8), frozenset(f"a{draw.randrange(2_000)}" for _ in range(30))
            )
            for i in range(number)
        ]
        taken[number] = round(_best(lambda c=candidates: choose(c, ["a7"], 4)) * 1e6, 1)  # type: ignore[misc]
    return {"choose_us": taken}


def admission_costs() -> dict[str, Any]:
    """Microseconds of fair shares for each admission, after so many members that each came once."""
    from core.types import Priority

    key, shares, taken = BatchKey(4, 64, 64, 77, 768), MemberShares(), {}
    began, last = time.process_time(), 0
    for number in range(1, 50_001):
        work = Work(f"r{number}", f"m{number}", key, Priority.INTERACTIVE, 2, 20, 40, 3.0, 0.0)
        shares.welcome(work.user_id, {work.user_id})
        shares.start(work)
        if number in (1_000, 10_000, 50_000):
            now = time.process_time()
            taken[number] = round((now - began) / (number - last) * 1e6, 1)
            began, last = now, number
    return {"shares_us": taken}


def _life_of_a_job(jobs: Any, number: int) -> str:
    """Queued, claimed, started, one report, done: what a picture that outlives its request would write."""
    from core.training import Progress
    from store.keys import new_id

    owner = new_id("own")
    job_id = new_id("job")
    jobs.create(
        {
            "model_id": "mini",
            "name": "me",
            "subject": "person",
            "trigger": "sks",
            "options": {"num_steps": 20},
        },
        job_id=job_id,
        user_id=f"m{number}",
        adapter_id=new_id("adp"),
        num_photos=0,
        max_queued=1_000_000,
    )
    jobs.claim(owner, 15.0)
    jobs.start(job_id, owner)
    jobs.progress(job_id, owner, Progress(step=10, num_steps=20, loss=None))
    jobs.fail(job_id, owner, "measured", "Enough was seen.")
    return job_id


def _best(act: Callable[[], object]) -> float:
    """Processor seconds of one call: the least of several rounds, since others use the machine, too."""
    number, best = 1, float("inf")
    for _ in range(_REPEATS):
        while True:
            began = time.process_time()
            for _ in range(number):
                act()
            taken = time.process_time() - began
            if taken >= 0.02:
                break
            number *= 2
        best = min(best, taken / number)
    return best


def _ms(seconds: float) -> float:
    return round(seconds * 1_000, 2)
