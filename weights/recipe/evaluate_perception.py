"""Measure the model's CLIPSeg on held-out renderings: python -m weights.recipe.evaluate_perception.

Masks by intersection over union, words of absent things by false alarms, phrases by zero-shot accuracy;
writes evaluation.json and, for the eye, a sheet. Knows goals and counting; nothing about training.
"""

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from weights.perception import PART, load_perception
from weights.recipe import queries, zero_shot
from weights.recipe.dataset import render
from weights.recipe.model_card import run_facts
from weights.recipe.parts import part_map, union
from weights.recipe.perception import Perception
from weights.recipe.perception_sheet import Found, sheet
from weights.recipe.queries import Query
from weights.recipe.scenes import ATTRIBUTE_VALUES, HELD_OUT_SEED, Scene, draw
from weights.recipe.train_classifier import soften
from weights.recipe.train_perception import tokenize
from weights.recipe.train_vae import to_tensor

# The classes whose mean is the goal; sunglasses count as glasses.
CLASSES: Final = (
    "hair", "face", "glasses", "beard", "clothes", "background", "eyes", "mouth", "robot", "monster",
    "planet",
)  # fmt: skip
THRESHOLD: Final = 0.5
# A word for something absent that covers more than this share of a picture is a false alarm.
ALARM_SHARE: Final = 0.01
GOALS: Final = {
    "mean_iou": 0.8,
    "no_false_alarm": 0.95,
    "man_or_woman": 0.97,
    "subject": 0.99,
    "background": 0.9,
    "skin": 0.9,
    "hair_color": 0.9,
    "glasses": 0.9,
}
_ABSENT_PER_PICTURE: Final = 2
_ON_SHEET: Final = 16

Figures = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One held-out scene: its picture [128, 128, 3] uint8 and part map [128, 128]."""

    scene: Scene
    picture: NDArray[np.uint8]
    bits: NDArray[np.uint16]


def held_out_samples(num: int, first_seed: int = HELD_OUT_SEED) -> list[Sample]:
    """The first num held-out scenes, rendered, styles among them; about 60 ms each."""
    scenes = [draw(seed) for seed in range(first_seed, first_seed + num)]
    return [Sample(scene, np.asarray(render(scene)), part_map(scene)) for scene in scenes]


@torch.inference_mode()
def found_masks(
    network: CLIPSegForImageSegmentation,
    tokenizer: CLIPTokenizer,
    pictures: Tensor,
    asked: Sequence[Sequence[Query]],
) -> list[NDArray[np.bool_]]:
    """The masks [Q, H, W] that the network finds in pictures [N, 3, H, W] for each one's queries.

    Each picture is seen once; the masks are those of the network's own forward pass.
    """
    reader = Perception(network)
    texts = sorted({query.text for words in asked for query in words})
    embeddings = dict(zip(texts, reader.read(tokenize(texts, tokenizer)), strict=True))
    found = []
    for picture, words in zip(pictures.split(1), asked, strict=True):
        _, activations = reader.see(picture)
        logits = reader.segment(activations, torch.stack([embeddings[query.text] for query in words]))
        found.append((logits.sigmoid() >= THRESHOLD).numpy())
    return found


def iou(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 1 when both are empty."""
    total = int((found | wanted).sum())
    return float((found & wanted).sum() / total) if total else 1.0


def class_of(query: Query) -> str:
    """The class that a query counts for: its part, but sunglasses are glasses."""
    return "glasses" if query.part == "sunglasses" else query.part


def mask_figures(
    samples: Sequence[Sample],
    asked: Sequence[Sequence[Query]],
    found: Sequence[NDArray[np.bool_]],
) -> Figures:
    """Mean IoU of every part asked for and of `CLASSES`, and the false alarms of absent words."""
    scores: dict[str, list[float]] = defaultdict(list)
    alarms: dict[str, list[bool]] = defaultdict(list)
    for sample, words, masks in zip(samples, asked, found, strict=True):
        for query, mask in zip(words, masks, strict=True):
            if query.atoms:
                wanted = union(sample.bits, query.atoms)
                # A part that a filter or other parts hide to the last pixel cannot be found.
                if wanted.any():
                    scores[class_of(query)].append(iou(mask, wanted))
            else:
                kind = query.part if query.part == "nowhere" else "other pictures' parts"
                alarms[kind].append(bool(mask.mean() > ALARM_SHARE))
    means = {part: float(np.mean(values)) for part, values in scores.items()}
    flat = [alarm for values in alarms.values() for alarm in values]
    return {
        "mean_iou": round(float(np.mean([means[part] for part in CLASSES if part in means])), 4),
        "iou": {part: {"mean": round(means[part], 4), "of": len(scores[part])} for part in sorted(means)},
        "false_alarms": {
            "share": round(float(np.mean(flat)), 4) if flat else None,
            "of": len(flat),
            **{kind: round(float(np.mean(values)), 4) for kind, values in alarms.items()},
        },
    }


@torch.inference_mode()
def zero_shot_figures(
    network: CLIPSegForImageSegmentation,
    tokenizer: CLIPTokenizer,
    pictures: Tensor,
    scenes: Sequence[Scene],
    batch: int = 64,
) -> Figures:
    """Share of pictures whose nearest phrase is the true one, for each attribute; plus man against woman."""
    clip = network.clip
    seen = torch.cat([clip.get_image_features(part).pooler_output for part in pictures.split(batch)])
    seen = F.normalize(seen, dim=-1)
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for key in zero_shot.KEYS:
        words = clip.get_text_features(tokenize(zero_shot.phrases(key), tokenizer)).pooler_output
        similarity = seen @ F.normalize(words, dim=-1).T
        for row, scene in enumerate(scenes):
            value = zero_shot.facts_of(scene).get(key)
            if value is None:
                continue
            answers = ATTRIBUTE_VALUES[key]
            total[key] += 1
            right[key] += answers[int(similarity[row].argmax())] == value
            if key == "subject" and scene.look:
                total["man_or_woman"] += 1
                right["man_or_woman"] += answers[int(similarity[row, :2].argmax())] == value
    return {key: {"share": round(right[key] / total[key], 4), "of": total[key]} for key in sorted(total)}


def asked_of(sample: Sample, *, varied: bool) -> list[Query]:
    """Every part that the sample shows, in plain or varied words, and some things that it does not show."""
    rng = Random(sample.scene.seed)
    scene = sample.scene
    words = [
        queries.present_query(scene, part, rng if varied else None) for part in queries.shown_parts(scene)
    ]
    absent = [queries.absent_query(scene, rng) for _ in range(_ABSENT_PER_PICTURE)]
    return [*words, *absent, Query(rng.choice(queries.UNSEEN_NOWHERE), "nowhere", ())]


def measure(
    network: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer, samples: Sequence[Sample]
) -> Figures:
    """All figures of a network that takes 128 x 128 pictures in [-1, 1], on samples.

    `plain` asks in the plainest words, `varied` in synonyms and short phrases, `softened` plainly of pictures
    with blur, tint and noise. Each holds `mask_figures`, all but `varied` also `zero_shot`; `goals` judges
    `plain`.
    """
    pictures = to_tensor(np.stack([sample.picture for sample in samples])).contiguous()
    soft = soften(pictures, torch.Generator().manual_seed(0))
    scenes = [sample.scene for sample in samples]
    figures: Figures = {}
    for name, shown in (("plain", pictures), ("varied", pictures), ("softened", soft)):
        asked = [asked_of(sample, varied=name == "varied") for sample in samples]
        found = mask_figures(samples, asked, found_masks(network, tokenizer, shown, asked))
        if name != "varied":
            found["zero_shot"] = zero_shot_figures(network, tokenizer, shown, scenes)
        figures[name] = found
    return {"goals": goals(figures["plain"]), **figures}


def goals(figures: Figures) -> dict[str, dict[str, float | bool | None]]:
    """Every goal of `GOALS`, what was reached and whether that is enough; nothing measured meets none."""
    alarms = figures["false_alarms"]["share"]
    reached = {key: entry["share"] for key, entry in figures["zero_shot"].items()}
    reached |= {"mean_iou": figures["mean_iou"], "no_false_alarm": None if alarms is None else 1 - alarms}
    return {
        key: {"goal": goal, "reached": value, "met": value is not None and value >= goal}
        for key, goal in GOALS.items()
        for value in [reached.get(key)]
    }


def look(
    network: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer, samples: Sequence[Sample]
) -> Image.Image:
    """A sheet of what is found in samples, in varied words."""
    asked = [asked_of(sample, varied=True) for sample in samples]
    pictures = to_tensor(np.stack([sample.picture for sample in samples])).contiguous()
    masks = found_masks(network, tokenizer, pictures, asked)
    return sheet(
        [
            (
                sample.picture,
                [
                    Found(query.text, mask, union(sample.bits, query.atoms))
                    for query, mask in zip(words, found, strict=True)
                ],
            )
            for sample, words, found in zip(samples, asked, masks, strict=True)
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure and write; the last line of output is the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini", help="an id of the registry, or path:FOLDER")
    parser.add_argument("--num", type=int, default=400, help="held-out renderings")
    parser.add_argument("--out", type=Path, default=Path("weights/mini") / PART)
    parser.add_argument("--run", type=Path, help="folder of the training run, whose length is noted")
    parser.add_argument("--sheet", type=Path, help="PNG of a few found masks")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    tokenizer, network, _ = load_perception(options.model)
    samples = held_out_samples(options.num)
    report = {
        "settings": {"num": options.num, "first_seed": HELD_OUT_SEED, "threshold": THRESHOLD},
        **({"training": run_facts(options.run)} if options.run else {}),
        **measure(network, tokenizer, samples),
        "seconds": round(time.monotonic() - started, 1),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if options.sheet:
        look(network, tokenizer, samples[:_ON_SHEET]).save(options.sheet, optimize=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
