"""What a process counts is handed over once, and nothing is lost in between."""

from __future__ import annotations

from core.figures import Figure, Figures, Kind

REQUESTS = Figure("requests", Kind.COUNTER, "", ("pipeline",))
QUEUED = Figure("queued", Kind.GAUGE, "")
SECONDS = Figure("seconds", Kind.HISTOGRAM, "", (), (1.0, 2.0))


def test_increments_add_up_until_they_are_taken() -> None:
    figures = Figures()
    figures.count(REQUESTS, "inpaint")
    figures.count(REQUESTS, "inpaint", by=2)
    figures.count(REQUESTS, "mask", by=0)
    assert figures.take().counts == {(REQUESTS, ("inpaint",)): 3, (REQUESTS, ("mask",)): 0}
    figures.count(REQUESTS, "inpaint")
    assert figures.take().counts == {(REQUESTS, ("inpaint",)): 1}
    assert figures.take() == ({}, {}, [])


def test_the_newest_level_counts_and_every_sample() -> None:
    figures = Figures()
    for value in (3.0, 1.0):
        figures.level(QUEUED, at=value)
        figures.sample(SECONDS, of=value)
    taken = figures.take()
    assert taken.levels == {(QUEUED, ()): 1.0}
    assert taken.samples == [((SECONDS, ()), 3.0), ((SECONDS, ()), 1.0)]


def test_what_nobody_takes_does_not_fill_the_memory() -> None:
    figures = Figures()
    for number in range(30_000):
        figures.sample(SECONDS, of=float(number))
    samples = figures.take().samples
    assert len(samples) < 30_000
    assert samples[-1] == ((SECONDS, ()), 29_999.0)
