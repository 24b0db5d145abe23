"""The workload: requests as plain data, the same for every system, drawn from a seed.

Knows mixes, not arrivals' statistics, pictures or systems.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, islice
from pathlib import Path
from random import Random

from benchmarks.loadtest.arrivals import arrival_times
from benchmarks.loadtest.inputs import NUM_PICTURES, NUM_PROMPTS

PIPELINES = ("text", "image", "inpaint", "swap")
STEPS = (8, 20, 30)
GUIDANCE = (1.0, 5.0, 7.5)
NUM_MEMBERS = 20
# Few members ask for much.
ZIPF_EXPONENT = 1.05
# Share of a standalone latency after which a client that cancels has had enough.
_PATIENCE = (0.2, 1.5)


@dataclass(frozen=True, slots=True)
class Mix:
    """What requests ask for. ``shares`` are those of ``PIPELINES``."""

    shares: tuple[int, int, int, int]
    steps: tuple[int, ...] = STEPS
    guidance: tuple[float, ...] = GUIDANCE
    adapters: bool = False
    cancels: float = 0.0
    training: bool = False


MIXES = {
    "A": Mix((100, 0, 0, 0), steps=(20,), guidance=(5.0,)),
    "B": Mix((55, 20, 15, 10)),
    "C": Mix((55, 20, 15, 10), adapters=True),
    "D": Mix((55, 20, 15, 10), cancels=0.05, training=True),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. ``at`` counts in seconds from the start; ``input`` is a prompt's number for pictures from
    text, else a portrait's, with its own prompt.

    ``adapter`` is the member's own; ``cancel_after`` a share of the class's standalone latency, counted
    from ``at``, after which the client hangs up.
    """

    number: int
    at: float
    pipeline: str
    input: int
    steps: int
    guidance: float
    seed: int
    member: str
    adapter: str | None = None
    cancel_after: float | None = None

    @property
    def kind(self) -> str:
        """The class of requests that take equally long when they are alone."""
        adapted = "+adapter" if self.adapter else ""
        return f"{self.pipeline}/{self.steps}/{self.guidance:g}{adapted}"


def requests(mix: str, times: Iterator[float], seed: int) -> Iterator[Asked]:
    """The requests of a mix at those times; the same ones for the same seed."""
    drawn, chosen = Random(f"{seed}/{mix}"), MIXES[mix]
    weights = list(accumulate(1 / rank**ZIPF_EXPONENT for rank in range(1, NUM_MEMBERS + 1)))
    for number, at in enumerate(times):
        (member,) = drawn.choices(range(NUM_MEMBERS), cum_weights=weights)
        (pipeline,) = drawn.choices(PIPELINES, weights=chosen.shares)
        hangs_up, patience = drawn.random() < chosen.cancels, drawn.uniform(*_PATIENCE)
        yield Asked(
            number,
            round(at, 4),
            pipeline,
            number % NUM_PROMPTS if pipeline == "text" else drawn.randrange(NUM_PICTURES),
            drawn.choice(chosen.steps),
            drawn.choice(chosen.guidance),
            drawn.randrange(2**32),
            f"member-{member:02}",
            f"adapter-{member:02}" if chosen.adapters else None,
            round(patience, 3) if hangs_up else None,
        )


def scheduled(mix: str, arrivals: str, rate: float, duration_s: float, seed: int) -> list[Asked]:
    """The workload of one point: whoever serves it gets the same requests at the same times."""
    times = arrival_times(arrivals, rate, duration_s, Random(f"{seed}/{mix}/{arrivals}/{rate:.4f}"))
    return list(requests(mix, times, seed))


def in_turn(mix: str, num: int, seed: int) -> list[Asked]:
    """Requests of a mix without times, for a client that waits for each answer. None of them is cancelled."""
    drawn = islice(requests(mix, iter(lambda: 0.0, None), seed), 3 * num)
    return [asked for asked in drawn if asked.cancel_after is None][:num]


def of_every_kind(mix: str, repeats: int) -> list[Asked]:
    """``repeats`` requests of each class of a mix, the classes in turn."""
    chosen = MIXES[mix]
    kinds = [
        (pipeline, steps, guidance)
        for pipeline, share in zip(PIPELINES, chosen.shares, strict=True)
        if share
        for steps in chosen.steps
        for guidance in chosen.guidance
    ]
    return [
        Asked(
            number,
            0.0,
            *(pipeline, number % NUM_PICTURES, steps, guidance, number),
            f"member-{number % NUM_MEMBERS:02}",
            f"adapter-{number % NUM_MEMBERS:02}" if chosen.adapters else None,
        )
        for number, (pipeline, steps, guidance) in enumerate(kinds * repeats)
    ]


def write(path: Path, asked: Sequence[Asked]) -> None:
    """One line of JSON a request."""
    path.write_text("".join(json.dumps(asdict(each)) + "\n" for each in asked))


def read(path: Path) -> list[Asked]:
    return [Asked(**json.loads(line)) for line in path.read_text().splitlines()]
