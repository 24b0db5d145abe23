"""Measure the model on held-out captions: python -m weights.recipe.evaluate --model weights/mini.

Pictures are drawn by diffusers' own pipeline and judged by the attribute classifier; writes evaluation.json
and grid.png. Knows goals and counting; nothing about training.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from weights import registry
from weights.recipe import classifier, dataset, grid
from weights.recipe.captions import canonical, caption
from weights.recipe.draw import SAMPLERS, Drawer
from weights.recipe.scenes import HELD_OUT_SEED, Record, Scene, draw
from weights.recipe.train_vae import to_tensor
from weights.recipe.vae import reconstruction_psnr
from weights.recipe.words import ways

OTHERS: Final = ("man_or_woman", "clothes_color", "hair_color", "glasses", "beard")
MEASURED: Final = ("subject", "background", *OTHERS)
GOALS: Final = {"vae_psnr_db": 30.0, "subject": 0.99, "background": 0.95, "others_mean": 0.95}
GRID_PAIRS: Final = 24
VAE_PICTURES: Final = 200

Figures = dict[str, float | dict[str, float]]


def asked(record: Record) -> dict[str, str]:
    """What is measured of a caption that says everything: the values of `MEASURED` it states.

    A planet's background is left out: its night colours have the names of other backgrounds' colours.
    """
    facts = {key: value for key, value in record.labels().items() if key in MEASURED}
    if record.subject == "planet":
        del facts["background"]
    return {**facts, "man_or_woman": record.subject} if record.look else facts


def stated(record: Record, text: str) -> dict[str, str]:
    """The part of `asked` that a caption of the record states, found by its phrases."""
    found = {"subject", "man_or_woman"}
    for place in range(4):  # no fact has more synonyms
        said = ways(record, lambda words, place=place: words[min(place, len(words) - 1)])  # type: ignore[misc]
        for phrase in (phrase for alternatives in said.values() for phrase in alternatives):
            if phrase.item in text:
                found.update(phrase.keys)
    return {key: value for key, value in asked(record).items() if key in found}


def shares(found: Sequence[Mapping[str, str]], wanted: Sequence[Mapping[str, str]]) -> Figures:
    """Right answers, answers and their share for each of `MEASURED`, and the mean share of `OTHERS`.

    found are the classifier's answers, wanted the values to be found; both one per picture.
    """
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for answers, facts in zip(found, wanted, strict=True):
        for key, value in facts.items():
            total[key] += 1
            right[key] += answers["subject" if key == "man_or_woman" else key] == value
    figures: Figures = {
        key: {"right": right[key], "of": total[key], "share": round(right[key] / total[key], 4)}
        for key in MEASURED
        if total[key]
    }
    known = [right[key] / total[key] for key in OTHERS if total[key]]
    if known:
        figures["others_mean"] = round(sum(known) / len(known), 4)
    return figures


def share(figures: Figures, key: str) -> float | None:
    """One figure of `shares` as a plain number; None where nothing was counted."""
    figure = figures.get(key)
    return figure["share"] if isinstance(figure, dict) else figure


def held_out_scenes(num: int) -> list[Scene]:
    """The first held-out scenes up to the num-th without a style, those with a style among them."""
    scenes: list[Scene] = []
    for seed in count(HELD_OUT_SEED):
        if sum(not scene.style for scene in scenes) == num:
            break
        scenes.append(draw(seed))
    return scenes


def psnr(drawer: Drawer, scenes: Sequence[Scene]) -> dict[str, float]:
    """Mean reconstruction PSNR in dB of the renderings: of all, and of those without a style."""
    means, counts = [], []
    for styled in (False, True):
        chosen = [scene for scene in scenes if bool(scene.style) is styled]
        if chosen:
            with torch.inference_mode():
                means.append(reconstruction_psnr(drawer.vae, to_tensor(_rendered(chosen))))
            counts.append(len(chosen))
    overall = float(np.average(means, weights=counts))
    return {"all": round(overall, 2), "without_style": round(means[0], 2), "pictures": sum(counts)}


def _rendered(scenes: Sequence[Scene]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(dataset.render(scene)) for scene in scenes])


def goals(figures: Figures, psnr_db: float) -> dict[str, dict[str, float | bool | None]]:
    """Every goal, what was reached and whether that is enough; a figure without pictures meets none."""
    reached = {"vae_psnr_db": psnr_db, **{key: share(figures, key) for key in GOALS if key != "vae_psnr_db"}}
    return {
        key: {"goal": goal, "reached": value, "met": value is not None and value >= goal}
        for key, goal in GOALS.items()
        for value in [reached[key]]
    }


def measure(drawer: Drawer, num: int, num_natural: int) -> tuple[dict[str, object], list[grid.Pair]]:
    """All figures of num plain and num_natural natural captions, and the first pairs to look at."""
    judge = classifier.load()
    scenes = held_out_scenes(max(num, num_natural))
    plain = [scene for scene in scenes if not scene.style]
    prompts = [canonical(scene) for scene in plain[:num]]
    drawn = drawer.draw(prompts)
    renderings = _rendered(plain[:num])
    wanted = [asked(scene) for scene in plain[:num]]
    figures = shares(judge.classify(torch.from_numpy(drawn)), wanted)
    vae = psnr(drawer, scenes[:VAE_PICTURES])
    report: dict[str, object] = {
        "generated": figures,
        "renderings": shares(judge.classify(torch.from_numpy(renderings)), wanted),
        "vae_psnr_db": vae,
        "goals": goals(figures, vae["all"]),
    }
    if num_natural:
        texts = [caption(scene, Random(scene.seed)) for scene in plain[:num_natural]]
        facts = [stated(scene, text) for scene, text in zip(plain, texts, strict=False)]
        report["natural"] = shares(judge.classify(torch.from_numpy(drawer.draw(texts))), facts)
    pairs = [grid.Pair(*three) for three in zip(drawn, renderings, prompts, strict=True)]
    return report, pairs[:GRID_PAIRS]


def _parser() -> argparse.ArgumentParser:
    info = registry.info("mini")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("weights/mini"))
    parser.add_argument("--num", type=int, default=200, help="captions that say everything")
    parser.add_argument(
        "--num-natural", type=int, default=100, help="captions as people write them; 0 for none"
    )
    parser.add_argument("--steps", type=int, default=info.default_num_inference_steps)
    parser.add_argument("--guidance", type=float, default=info.default_guidance_scale)
    parser.add_argument("--sampler", choices=tuple(SAMPLERS), default=info.default_sampler)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the UNet")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of evaluation.json; the model's when left out")
    parser.add_argument("--grid", type=Path, help="the sheet of pairs; OUT/grid.png when left out")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure and write; the last line of output is the report as JSON."""
    options = _parser().parse_args(arguments)
    out: Path = options.out or options.model
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    drawer = Drawer(
        StableDiffusionPipeline.from_pretrained(options.model, dtype=torch.float32),
        sampler=options.sampler,
        steps=options.steps,
        guidance=options.guidance,
        seed=options.seed,
        batch=options.batch,
        dtype=getattr(torch, options.dtype),
    )
    measured, pairs = measure(drawer, options.num, options.num_natural)
    settings = ("num", "num_natural", "steps", "guidance", "sampler", "dtype", "seed")
    report = {
        "settings": {name: getattr(options, name) for name in settings},
        "classifier": json.loads(classifier.WEIGHTS.with_suffix(".json").read_text("utf-8")),
        **measured,
        "seconds": round(time.monotonic() - started, 1),
    }
    (out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sheet_path: Path = options.grid or out / "grid.png"
    sheet_path.parent.mkdir(parents=True, exist_ok=True)
    grid.sheet(pairs).save(sheet_path, optimize=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
