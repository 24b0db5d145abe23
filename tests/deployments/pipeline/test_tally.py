from __future__ import annotations

import pytest

from deployments.engine.request import Accepted, Progressed
from deployments.pipeline.tally import Tally


def test_the_latest_picture_decides() -> None:
    tally = Tally(2, 10, decode_s=0.5)
    tally.note(0, 0, 10, Accepted("a", 1.0), now=100.0)
    accepted = [tally.accepted]
    tally.note(1, 0, 10, Accepted("b", 3.0), now=100.0)
    assert [*accepted, tally.accepted] == [False, True]
    assert tally.predicted_finish_s(101.0) == pytest.approx(2.5)
    assert (tally.step, tally.num_steps) == (0, 20)


def test_a_pass_to_come_takes_its_steps_as_the_present_one() -> None:
    tally = Tally(1, 12, decode_s=0.0)
    tally.note(0, 0, 8, Progressed("a", 4, 8, 0.8), now=0.0)
    assert tally.predicted_finish_s(0.0) == pytest.approx(0.8 + 4 * 0.2)
    tally.note(0, 0, 8, Progressed("a", 8, 8, 0.0), now=1.0)
    tally.note(0, 1, 4, Accepted("a", 2.0), now=1.0)
    assert tally.predicted_finish_s(1.0) == pytest.approx(2.0)
    assert tally.step == 8


def test_a_pass_that_starts_over_does_not_go_back() -> None:
    tally = Tally(1, 8, decode_s=0.0)
    tally.note(0, 0, 8, Progressed("a", 5, 8, 1.0), now=0.0)
    tally.note(0, 0, 8, Accepted("a~1", 3.0), now=0.0)
    tally.note(0, 0, 8, Progressed("a~1", 1, 8, 2.5), now=0.0)
    assert tally.step == 5
    assert tally.predicted_finish_s(0.0) == pytest.approx(2.5)
