"""Whether a personal adapter draws its person, after training on five pictures of it.

For each character of the embedded world: train, then draw in new clothes before new backgrounds, beside the
same prompts without the adapter; pictures of others with and without it; the character painted into a
stranger's picture; and a gender swap. The attribute classifier judges. The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import diffusers
import numpy as np
import transformers
from PIL import Image

from benchmarks import likeness
from benchmarks.apprentice import SUBJECT, TRIGGER, Apprentice, pixels_of
from benchmarks.characters import Character, characters
from benchmarks.in_process import InProcess
from benchmarks.likeness import Judge, Shares
from benchmarks.swaps import Pixels
from core.specs import AdapterUse, Presentation
from core.training_defaults import defaults_for
from store.blobs import Blobs

_MODEL = "mini"
_NUM_PHOTOS = 5
_NUM_SWAPS = 4


@dataclass(eq=False)
class Outcome:
    """What one character's adapter did, and the pictures of a row of the sheet.

    ``skin_distance`` is that of swaps, with and without the adapter.
    """

    shares: dict[str, Shares]
    seconds: dict[str, float]
    skin_distance: dict[str, float]
    row: list[Pixels] = field(default_factory=list)

    def mean(self, name: str) -> float:
        return likeness.mean_of(self.shares[name])


async def judged(
    apprentice: Apprentice,
    character: Character,
    other: Character,
    adapter: AdapterUse,
    seconds: dict[str, float],
    num: int,
) -> Outcome:
    """Draw with the adapter and without, and count. ``other`` is whose picture is painted over."""
    judge, known = Judge(), character.wears(_NUM_PHOTOS, 0)
    wears, scenes = likeness.new_wears(character, num, known), likeness.strangers(num)
    prompts = [likeness.prompt_of(f"{TRIGGER} {SUBJECT}", wear) for wear in wears]
    captions = [likeness.caption_of(scene) for scene in scenes]
    own, plain = await apprentice.draw(prompts, adapter), await apprentice.draw(prompts, None)
    quick = await apprentice.draw(prompts, adapter, few_step=True)
    theirs, before = await apprentice.draw(captions, adapter), await apprentice.draw(captions, None)
    shares = {
        "identity": judge.identity(character, own),
        "identity_without": judge.identity(character, plain),
        "identity_few_step": judge.identity(character, quick),
        "prompt": judge.prompted(wears, own),
        "prompt_few_step": judge.prompted(wears, quick),
        "prompt_without": judge.prompted(wears, plain),
        "others": judge.strangers(scenes, theirs),
        "others_without": judge.strangers(scenes, before),
    }
    rooms = other.wears(_NUM_SWAPS, 2)
    hosts, few = [other.picture(wear) for wear in rooms], prompts[:_NUM_SWAPS]
    painted = await apprentice.inpaint(hosts, SUBJECT, few, adapter)
    unpainted = await apprentice.inpaint(hosts, SUBJECT, few, None)
    shares["inpainted"] = judge.identity(character, painted)
    shares["inpainted_without"] = judge.identity(character, unpainted)
    target = Presentation.WOMAN if character.subject == "man" else Presentation.MAN
    portraits = [character.picture(wear) for wear in wears[:_NUM_SWAPS]]
    wanted = {key: character.attributes[key] for key in likeness.KEPT_IN_SWAP if key in character.attributes}
    wanted |= {"subject": target.value}
    swapped = await apprentice.swap(portraits, target, adapter)
    unaided = await apprentice.swap(portraits, target, None)
    skin = {
        name: fmean(
            likeness.skin_distance(character, pixels_of(portrait), picture)
            for portrait, picture in zip(portraits, pictures, strict=True)
        )
        for name, pictures in (("swapped", swapped), ("swapped_without", unaided))
    }
    for name, pictures in (("swapped", swapped), ("swapped_without", unaided)):
        shares[name] = judge.shares(pictures, [wanted] * len(pictures))
    row = [pixels_of(character.picture(known[0])), *own[:6], pixels_of(hosts[0]), painted[0], swapped[0]]
    return Outcome(shares, seconds, skin, row)


def report_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of the whole run, with the goals and whether they were met."""
    means = {name: round(fmean(each.mean(name) for each in outcomes), 4) for name in outcomes[0].shares}
    stages = {name: round(fmean(each.seconds[name] for each in outcomes), 1) for name in outcomes[0].seconds}
    harm = means["others_without"] - means["others"]
    goals = {name: means[name] >= goal for name, goal in likeness.GOALS.items()}
    return {
        "benchmark": "personalise",
        "characters": len(outcomes),
        "means": means,
        "least": {name: round(min(each.mean(name) for each in outcomes), 4) for name in likeness.GOALS},
        "by_attribute": {
            name: likeness.by_attribute([each.shares[name] for each in outcomes])
            for name in ("identity", "identity_without", "prompt", "others", "others_without", "swapped")
        },
        "skin_distance": {
            name: round(fmean(each.skin_distance[name] for each in outcomes), 1)
            for name in outcomes[0].skin_distance
        },
        "training_s": {
            "mean": round(fmean(sum(each.seconds.values()) for each in outcomes), 1),
            "most": round(max(sum(each.seconds.values()) for each in outcomes), 1),
            "stages": stages,
        },
        "goals_met": {**goals, "others_unharmed": harm <= likeness.UNHARMED},
    }


async def run(options: argparse.Namespace) -> list[Outcome]:
    blobs = Blobs("memory://personalise")
    with InProcess(_MODEL, options.threads, blobs=blobs) as pipelines:
        apprentice = Apprentice(pipelines, blobs)
        settings = replace(defaults_for(pipelines.info.family), sample_every=0)
        if options.steps:
            settings = replace(settings, num_steps=options.steps)
        others = await apprentice.class_pictures(settings.num_class_pictures)
        people = characters(options.num)
        outcomes = []
        for index, character in enumerate(people):
            wears = character.wears(_NUM_PHOTOS, 0)
            adapter, watch = await asyncio.to_thread(apprentice.learn, character, wears, others, settings)
            other = people[index - 1]
            outcome = await judged(apprentice, character, other, adapter, watch.seconds, options.pictures)
            outcomes.append(outcome)
            told = {name: round(outcome.mean(name), 3) for name in outcome.shares}
            print(f"{index}: {sum(watch.seconds.values()):.1f} s {told}", flush=True)
        return outcomes


def write_sheet(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """``personal.png``: a photo, six pictures by words, a stranger's picture, painted over; a swap."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [np.concatenate(outcome.row, axis=1) for outcome in outcomes]
    Image.fromarray(np.concatenate(rows)).save(folder / "personal.png", optimize=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a message when it is not one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.personalise", description=__doc__)
    parser.add_argument("--num", type=int, default=10, help="characters")
    parser.add_argument("--pictures", type=int, default=20, help="pictures of each, and of strangers")
    parser.add_argument("--steps", type=int, help="training steps, if not those of the family")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--sheet", type=Path, help="folder for a sheet of pictures")
    options = parser.parse_args(arguments)
    if options.num < 1 or options.pictures < _NUM_SWAPS:
        parser.error(f"at least one character and {_NUM_SWAPS} pictures")
    return options


def main() -> None:
    options = parse()
    for loader in (diffusers.utils.logging, transformers.utils.logging):
        loader.set_verbosity_error()
        loader.disable_progress_bar()
    outcomes = asyncio.run(run(options))
    if options.sheet:
        write_sheet(options.sheet, outcomes)
    print(json.dumps(report_of(outcomes)))


if __name__ == "__main__":
    main()
