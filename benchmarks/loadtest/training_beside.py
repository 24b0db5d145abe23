"""A training in a process of its own beside a baseline: the same work as in Limner's, as nice as its tasks.

It writes how many optimizer steps are done to a file, and ends when it is ended.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.baselines.lit import RAY_NICENESS
from core.training import Progress
from core.training_defaults import defaults_for
from deployments.pipeline.threads import actor_options

NUM_PHOTOS = 5
# As many as a member may ask for: no point lasts as long.
MAX_STEPS = 4_000
SUBJECT, TRIGGER = "woman", "zvokip"
# What of the embedded family's defaults is changed: neither pictures of the class nor samples are drawn, so
# that all of a training is optimizer steps.
CHANGED: dict[str, Any] = {
    "num_steps": MAX_STEPS,
    "prior_weight": 0.0,
    "num_class_pictures": 0,
    "sample_every": 0,
    "seed": 1,
}


def photos() -> list[bytes]:
    """Pictures of one character."""
    from benchmarks.characters import characters

    character = characters(2)[1]
    return [character.picture(wear) for wear in character.wears(NUM_PHOTOS, 0)]


class Tally:
    """A reporter that keeps the number of steps in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def stage(self, words: str) -> None: ...

    def progress(self, progress: Progress) -> None:
        # Who reads it must not find it empty.
        new = self._path.with_suffix(".new")
        new.write_text(str(progress.step))
        new.replace(self._path)

    def sample(self, step: int, png: bytes) -> None: ...

    def checkpoint(self, data: bytes) -> None:
        self._path.with_suffix(".checkpoint").write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loadtest.training_beside", description=__doc__
    )
    parser.add_argument("steps", type=Path, help="file to count in")
    chosen = parser.parse_args()
    os.nice(RAY_NICENESS)
    # OpenMP reads them when torch is loaded.
    os.environ.update(actor_options(0)["runtime_env"]["env_vars"])
    from deployments.training.run import TrainingInputs, train

    train(
        TrainingInputs(
            model_id="mini",
            subject=SUBJECT,
            trigger=TRIGGER,
            photos=photos(),
            class_pictures=(),
            options=replace(defaults_for("mini"), **CHANGED),
        ),
        Tally(chosen.steps),
    )


if __name__ == "__main__":
    main()
