"""Jobs as they are read."""

from __future__ import annotations

import json

from store.job_queries import spec_as_json
from store.jobs import Jobs
from tests.fakes import VirtualClock
from tests.store.records import at_work, queue, training_spec


def test_a_specification_becomes_json_without_its_photos() -> None:
    spec = training_spec(name="Ada")
    members = spec_as_json(spec)
    assert json.loads(json.dumps(members)) == members
    assert set(members) == {
        "request_id",
        "user_id",
        "model_id",
        "name",
        "subject",
        "trigger",
        "options",
        "keep_photos",
    }
    assert members["options"]["num_steps"] == 100


def test_ahead_of_a_job_are_those_at_work_and_those_before_it(jobs: Jobs, clock: VirtualClock) -> None:
    working = at_work(jobs, "ada")
    waiting = []
    for user_id in ("bob", "cy", "dee"):
        clock.advance(1.0)
        waiting.append(queue(jobs, user_id))
    ahead = [[job.job_id for job in jobs.ahead_of(job.job_id)] for job in waiting]
    ids = [job.job_id for job in waiting]
    assert ahead == [[working.job_id, *ids[:number]] for number in range(3)]
    assert jobs.ahead_of(working.job_id) == []
    assert jobs.ahead_of("job_0") == []
    assert jobs.ahead_of(ids[0]) == [jobs.get(working.job_id, "ada")]


def test_the_order_that_is_told_is_the_order_of_claims(jobs: Jobs, clock: VirtualClock) -> None:
    for user_id, seconds in (("ada", 30.0), ("bob", 10.0), ("cy", 20.0)):
        job = at_work(jobs, user_id, lease_s=1_000.0)
        clock.advance(seconds)
        jobs.fail(job.job_id, "own_1", "internal_error", "no")
    for user_id in ("ada", "bob", "cy", "dee"):
        last = queue(jobs, user_id)
        clock.advance(1.0)
    ada = jobs.list("ada")[0]
    told = [job.user_id for job in jobs.ahead_of(ada.job_id)]
    assert told == ["dee", "bob", "cy"]
    assert jobs.ahead_of(last.job_id) == []
    claimed = [each.user_id for _ in range(3) if (each := jobs.claim("own_2", 15.0)) is not None]
    assert claimed == told
