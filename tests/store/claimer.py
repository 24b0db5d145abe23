"""A process that claims jobs, for the tests: ``python -m tests.store.claimer URL NOW drain|work``.

It says "ready", waits for a line, and then either claims until nothing is left, and tells what it got, or
claims one job and reports steps of it until it is killed.
"""

from __future__ import annotations

import sys

from core.training import Progress
from store.db import open_database
from store.jobs import Jobs
from store.keys import new_id


def main(url: str, now: str, what: str) -> None:
    jobs = Jobs(open_database(url), clock=lambda: float(now))
    print("ready", flush=True)
    sys.stdin.readline()
    if what == "drain":
        while (job := jobs.claim(new_id("own"), 15.0)) is not None:
            print(job.job_id, flush=True)
        return
    owner = new_id("own")
    job = jobs.claim(owner, 15.0)
    if job is None:
        raise SystemExit("nothing to claim")
    jobs.start(job.job_id, owner)
    step = 0
    while True:
        step += 1
        jobs.progress(job.job_id, owner, Progress(step=step, num_steps=100))
        print(step, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
