"""Any order of calls by anyone keeps the promises of a job's life: a model beside the database."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from core.errors import Conflict, LeaseLost
from core.training import JobStatus, Progress
from store.adapters import Adapters
from store.db import open_database
from store.jobs import Jobs
from store.keys import new_id
from tests.fakes import VirtualClock
from tests.store.records import queue, result_of

LEASE_S = 15.0
MEMBERS = ("ada", "bob", "cy")
ENDS = {
    "succeed": JobStatus.SUCCEEDED,
    "fail": JobStatus.FAILED,
    "finish_canceled": JobStatus.CANCELED,
}


@dataclasses.dataclass
class ModelJob:
    """What must be true of a job."""

    user_id: str
    status: JobStatus = JobStatus.QUEUED
    owner: str | None = None
    expires_at: float = 0.0
    cancel_requested: bool = False
    num_attempts: int = 0

    def is_free(self, now: float) -> bool:
        return not self.status.final and (self.owner is None or self.expires_at <= now)

    def end(self, status: JobStatus) -> None:
        self.status, self.owner = status, None


class JobLife(RuleBasedStateMachine):
    """Members, owners who may have lost their lease, and time."""

    claims = Bundle("claims")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.engine = open_database(f"sqlite:///{Path(self.folder.name) / 'limner.db'}")
        self.clock = VirtualClock()
        self.jobs, self.adapters = Jobs(self.engine, self.clock), Adapters(self.engine)
        self.model: dict[str, ModelJob] = {}

    @rule(user_id=st.sampled_from(MEMBERS))
    def create(self, user_id: str) -> None:
        # Ids are random: were they to decide between jobs of the same time, no run could be repeated.
        self.clock.advance(0.01)
        under_way = [
            job_id for job_id, job in self.model.items() if job.user_id == user_id and not job.status.final
        ]
        if under_way:
            with pytest.raises(Conflict) as refused:
                queue(self.jobs, user_id)
            assert [refused.value.limit] == under_way
        else:
            self.model[queue(self.jobs, user_id).job_id] = ModelJob(user_id)

    @rule(seconds=st.sampled_from([1.0, LEASE_S]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(target=claims)
    def claim(self) -> object:
        free = [job_id for job_id, job in self.model.items() if job.is_free(self.clock())]
        owner = new_id("own")
        job = self.jobs.claim(owner, LEASE_S)
        assert (job.job_id in free) if job is not None else free == []
        if job is None:
            return multiple()
        known = self.model[job.job_id]
        known.owner, known.expires_at = owner, self.clock() + LEASE_S
        known.num_attempts += 1
        return job.job_id, owner

    @rule(claim=claims, write=st.sampled_from(["renew", "start", "stage", "progress", "sample"]))
    def write(self, claim: tuple[str, str], write: str) -> None:
        job_id, owner = claim
        arguments = {
            "renew": (LEASE_S,),
            "stage": ("drawing",),
            "progress": (Progress(step=1, num_steps=100),),
            "sample": (1,),
        }
        known = self.model[job_id]
        if known.owner != owner:
            with pytest.raises(LeaseLost):
                getattr(self.jobs, write)(job_id, owner, *arguments.get(write, ()))
            return
        answer = getattr(self.jobs, write)(job_id, owner, *arguments.get(write, ()))
        if write == "start":
            known.status = JobStatus.RUNNING
        else:
            assert answer == known.cancel_requested
        if write == "renew":
            known.expires_at = self.clock() + LEASE_S

    @rule(claim=claims, how=st.sampled_from([*ENDS, "release"]))
    def leave(self, claim: tuple[str, str], how: str) -> None:
        job_id, owner = claim
        known = self.model[job_id]
        more: dict[str, tuple[object, ...]] = {
            "succeed": (result_of(self.jobs.get(job_id, known.user_id)),),
            "fail": ("internal_error", "no"),
        }
        if known.owner != owner:
            with pytest.raises(LeaseLost):
                getattr(self.jobs, how)(job_id, owner, *more.get(how, ()))
            return
        getattr(self.jobs, how)(job_id, owner, *more.get(how, ()))
        if how == "release" and not known.cancel_requested:
            known.status, known.owner = JobStatus.QUEUED, None
        else:
            known.end(ENDS.get(how, JobStatus.CANCELED))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def request_cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(list(self.model)))
        known = self.model[job_id]
        self.jobs.request_cancel(job_id, known.user_id)
        if known.status is JobStatus.RUNNING and not known.is_free(self.clock()):
            known.cancel_requested = True
        elif not known.status.final:
            known.end(JobStatus.CANCELED)

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        for user_id in MEMBERS:
            theirs = {job.job_id: job for job in self.jobs.list(user_id)}
            made = [job_id for job_id, known in self.model.items() if known.user_id == user_id]
            assert set(theirs) == set(made)
            for job_id, job in theirs.items():
                known = self.model[job_id]
                assert job.status is known.status
                assert job.cancel_requested == known.cancel_requested
                assert job.num_attempts == known.num_attempts
                assert (job.ended_at is not None) == known.status.final

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for job_id, known in self.model.items():
            events = self.jobs.events(job_id)
            assert [event.number for event in events] == list(range(1, len(events) + 1))
            assert [event.kind.final for event in events] == [False] * (len(events) - 1) + [
                known.status.final
            ]
            if known.status.final:
                assert events[-1].kind.value == known.status.value
        for user_id in MEMBERS:
            ends = [known.status for known in self.model.values() if known.user_id == user_id]
            assert self.adapters.count(user_id) == ends.count(JobStatus.SUCCEEDED)
        self.engine.dispose()
        self.folder.cleanup()


JobLife.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestJobLife = JobLife.TestCase
