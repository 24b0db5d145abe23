"""Whose turn it is, what is asked with a deadline, and what a folder remembers."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import load
from benchmarks.loadtest.book import Book
from benchmarks.loadtest.client import OK, Message, Outcome
from benchmarks.loadtest.run import SYSTEMS, in_turns, with_deadlines
from benchmarks.loadtest.workload import Asked

ASKED = Asked(0, 0.0, "text", 0, 8, 5.0, 0, "anna")


def test_another_system_is_first_in_every_round() -> None:
    first = [in_turns(SYSTEMS, number)[0][0] for number in range(5)]
    assert first == ["one", "batch", "litserve", "limner", "one"]


def test_one_limner_serves_clients_with_deadlines_and_without() -> None:
    assert in_turns(SYSTEMS, 3)[0] == ("limner", ["limner", "limner-patient"])
    assert in_turns(("limner-patient",), 0) == [("limner", ["limner-patient"])]


def test_a_deadline_is_three_times_the_standalone_latency() -> None:
    ask = with_deadlines(lambda _: Message("/", {"prompt": "a robot"}, {}), {ASKED.kind: 0.5})
    assert ask(ASKED).body == {"prompt": "a robot", "deadline_s": 1.5}


def test_rounds_are_mixes_or_single_loads() -> None:
    plan, _ = load.parse(["--mixes", "A", "B", "--loads", "0.5", "1.2"])
    assert list(plan.rounds()) == [("A", "poisson", (0.5, 1.2)), ("B", "poisson", (0.5, 1.2))]
    plan, _ = load.parse(["--mixes", "A", "--loads", "0.5", "1.2", "--restart-per", "load"])
    assert list(plan.rounds()) == [("A", "poisson", (0.5,)), ("A", "poisson", (1.2,))]


@pytest.mark.parametrize("arguments", [["--loads", "0"], ["--mixes", "E"], ["--seconds", "-1"]])
def test_impossible_plans_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        load.parse(arguments)


def test_a_book_goes_on_where_it_was(tmp_path: Path) -> None:
    settings = {"seconds": 10.0}
    book = Book(tmp_path, settings)
    book.note_alone({"text/8/5": 0.4})
    book.note_capacity("B", 2.0)
    first = book.workload("B", "poisson", 0.5, 10.0, seed=0)
    point = {"mix": "B", "arrivals": "poisson", "load": 0.5, "system": "one", "good": 3}
    outcomes = [Outcome(ASKED, OK, 0.0, 0.4)]
    book.note(point, outcomes)
    again = Book(tmp_path, settings)
    assert again.alone_s == {"text/8/5": 0.4}
    assert again.has("B", "poisson", 0.5, "one")
    assert not again.has("B", "poisson", 0.5, "limner")
    assert again.outcomes(again.points[0]) == outcomes
    # Another system gets the very same requests, whatever the capacity is now.
    again.note_capacity("B", 3.0)
    assert again.workload("B", "poisson", 0.5, 10.0, seed=0) == first


def test_a_book_of_other_settings_is_not_mixed_up(tmp_path: Path) -> None:
    Book(tmp_path, {"seconds": 10.0})
    with pytest.raises(ValueError, match="--out"):
        Book(tmp_path, {"seconds": 20.0})
