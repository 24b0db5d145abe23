"""Adapters: each its member's own, and gone without a trace once deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from core.errors import Conflict, NotFound
from store.adapters import Adapters
from store.jobs import Jobs
from tests.store.records import adapter, at_work, queue, result_of


def test_what_was_added_comes_back_as_it_was(adapters: Adapters) -> None:
    mine = adapter()
    adapters.add(mine)
    assert adapters.get(mine.adapter_id, "ada") == mine
    with pytest.raises(Conflict):
        adapters.add(mine)


def test_for_others_it_does_not_exist(adapters: Adapters) -> None:
    mine = adapter()
    adapters.add(mine)
    for ask in (adapters.get, adapters.delete):
        with pytest.raises(NotFound) as refused:
            ask(mine.adapter_id, "bob")
        with pytest.raises(NotFound) as unknown:
            ask("adp_0", "bob")
        assert refused.value.message.replace(mine.adapter_id, "adp_0") == unknown.value.message
    assert adapters.find([mine.adapter_id], "bob") == {}
    assert adapters.list("bob") == []
    assert adapters.count("bob") == 0
    assert adapters.get(mine.adapter_id, "ada") == mine


def test_lists_count_and_find_only_the_members_own(adapters: Adapters) -> None:
    old, new, others = adapter(second=1), adapter(second=2), adapter("bob")
    for each in (old, new, others):
        adapters.add(each)
    assert adapters.list("ada") == [new, old]
    assert adapters.list("ada", 1) == [new]
    assert adapters.count("ada") == 2
    ids = [old.adapter_id, others.adapter_id, "adp_0", old.adapter_id]
    assert adapters.find(ids, "ada") == {old.adapter_id: old}
    assert adapters.find([], "ada") == {}


def test_nothing_of_a_deleted_adapter_remains_in_the_files(
    jobs: Jobs, adapters: Adapters, database: Engine
) -> None:
    job = queue(jobs, name="Countess of Lovelace", warnings=["photo 2 shows Countess of Lovelace"])
    jobs.claim("own_1", 15.0)
    jobs.start(job.job_id, "own_1", "looking at Countess of Lovelace")
    jobs.succeed(job.job_id, "own_1", adapter(adapter_id=job.adapter_id, name="Countess of Lovelace"))
    folder = Path(str(database.url.database)).parent

    def traces() -> list[str]:
        marks = (b"Countess of Lovelace", job.adapter_id.encode(), job.job_id.encode())
        return [path.name for path in folder.iterdir() if any(mark in path.read_bytes() for mark in marks)]

    assert traces() != []
    adapters.delete(job.adapter_id, "ada")
    assert traces() == []
    assert jobs.events(job.job_id) == []
    with pytest.raises(NotFound):
        jobs.get(job.job_id, "ada")
    with pytest.raises(NotFound):
        adapters.delete(job.adapter_id, "ada")


def test_deleting_one_leaves_the_others(jobs: Jobs, adapters: Adapters) -> None:
    for user_id in ("ada", "bob"):
        job = at_work(jobs, user_id)
        jobs.succeed(job.job_id, "own_1", result_of(job))
    imported = adapter()
    adapters.add(imported)
    mine = jobs.list("ada")[0]
    adapters.delete(mine.adapter_id, "ada")
    assert adapters.list("ada") == [imported]
    assert [job.adapter_id for job in jobs.list("bob")] == [each.adapter_id for each in adapters.list("bob")]
    assert len(jobs.events(jobs.list("bob")[0].job_id)) == 3


def test_a_training_under_way_is_not_deleted_but_a_failed_one_is(jobs: Jobs, adapters: Adapters) -> None:
    job = at_work(jobs)
    with pytest.raises(Conflict) as refused:
        adapters.delete(job.adapter_id, "ada")
    assert refused.value.limit == job.job_id
    jobs.fail(job.job_id, "own_1", "generation_failed", "NaN")
    with pytest.raises(NotFound):
        adapters.delete(job.adapter_id, "bob")
    adapters.delete(job.adapter_id, "ada")
    assert jobs.list("ada") == []
