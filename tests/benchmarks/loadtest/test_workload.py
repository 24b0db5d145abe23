"""Workloads: the same for the same seed, with the shares of their mix."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.loadtest import workload
from benchmarks.loadtest.workload import MIXES, in_turn, of_every_kind, scheduled


def test_the_same_seed_draws_the_same_workload() -> None:
    first, again = (scheduled("D", "bursty", 2.0, 60.0, seed=3) for _ in range(2))
    assert first == again
    assert first != scheduled("D", "bursty", 2.0, 60.0, seed=4)


def test_other_loads_ask_for_the_same_things_at_other_times() -> None:
    slow, fast = (scheduled("B", "poisson", rate, 100.0, seed=0) for rate in (1.0, 2.0))
    same = [(a.pipeline, a.steps, a.seed, a.member) for a in slow]
    assert same == [(b.pipeline, b.steps, b.seed, b.member) for b in fast[: len(slow)]]
    assert [a.at for a in slow] != [b.at for b in fast[: len(slow)]]


def test_mixes_have_their_shares() -> None:
    asked = scheduled("B", "poisson", 10.0, 400.0, seed=0)
    shares = {name: count / len(asked) for name, count in Counter(a.pipeline for a in asked).items()}
    assert shares == pytest.approx({"text": 0.55, "image": 0.2, "inpaint": 0.15, "swap": 0.1}, abs=0.03)
    assert {a.steps for a in asked} == {8, 20, 30}
    assert {a.guidance for a in asked} == {1.0, 5.0, 7.5}
    assert not any(a.adapter or a.cancel_after for a in asked)
    members = Counter(a.member for a in asked)
    assert members["member-00"] / members["member-01"] == pytest.approx(2**1.05, rel=0.2)


def test_a_uniform_mix_has_one_kind() -> None:
    assert {a.kind for a in scheduled("A", "poisson", 5.0, 20.0, seed=0)} == {"text/20/5"}


def test_members_of_mix_c_draw_with_their_own_adapters() -> None:
    asked = scheduled("C", "poisson", 5.0, 100.0, seed=0)
    assert all(a.adapter == a.member.replace("member", "adapter") for a in asked)
    assert all(a.kind.endswith("+adapter") for a in asked)


def test_some_of_mix_d_hang_up_but_no_client_alone() -> None:
    asked = scheduled("D", "poisson", 10.0, 400.0, seed=0)
    assert sum(a.cancel_after is not None for a in asked) / len(asked) == pytest.approx(0.05, abs=0.015)
    alone = in_turn("D", 200, seed=0)
    assert len(alone) == 200
    assert not any(a.cancel_after for a in alone)


def test_every_kind_is_there_as_often_as_wanted() -> None:
    kinds = Counter(a.kind for a in of_every_kind("B", 3))
    assert len(kinds) == 4 * 3 * 3
    assert set(kinds.values()) == {3}
    assert {a.kind for a in scheduled("B", "poisson", 10.0, 200.0, seed=0)} <= set(kinds)
    assert MIXES["A"].shares == (100, 0, 0, 0)


def test_a_file_keeps_a_workload(tmp_path: Path) -> None:
    asked = scheduled("D", "poisson", 2.0, 30.0, seed=0)
    workload.write(tmp_path / "asked.jsonl", asked)
    assert workload.read(tmp_path / "asked.jsonl") == asked
