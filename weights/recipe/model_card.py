"""Write the model card from what was measured: python -m weights.recipe.model_card --model weights/mini.

Every figure comes from evaluation.json, training.json or the weights' files; the words are in model_card.md.
"""

import argparse
import json
import os
from pathlib import Path
from string import Template
from typing import Any, Final

from safetensors import safe_open

from weights import registry
from weights.recipe import few_step_card, perception_card
from weights.recipe.filters import FILTERS
from weights.recipe.parallel import Plan
from weights.recipe.scenes import HELD_OUT_SEED
from weights.recipe.sources import SOURCES

TEMPLATE: Final = Path(__file__).with_suffix(".md")
PARTS: Final = ("text_encoder", "vae", "unet")
RUNS: Final = {"vae": "autoencoder", "text": "text encoder alone", "unet": "UNet and text encoder"}
_MET = {True: "yes", False: "no"}
NAMES: Final = {
    "vae_psnr_db": "VAE reconstruction PSNR",
    "subject": "subject",
    "man_or_woman": "man or woman",
    "background": "background",
    "clothes_color": "clothes' colour",
    "hair_color": "hair colour",
    "glasses": "glasses",
    "beard": "beard",
    "others_mean": "mean of the others",
}


def run_facts(run: Path) -> dict[str, float]:
    """Steps and hours of one training run, from the log.jsonl in its folder."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    seconds = sum(line["s_per_step"] for line in lines) * Plan.log_every
    return {"steps": lines[-1]["step"], "hours": round(seconds / 3600, 2)}


def training_facts(runs: Path) -> dict[str, dict[str, float]]:
    """Steps and hours of the training runs of `RUNS`, each in a folder of its name."""
    return {name: run_facts(runs / name) for name in RUNS}


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _figure(figures: dict[str, Any], key: str) -> str:
    value = figures.get(key)
    if isinstance(value, dict):
        return f"{_percent(value['share'])} ({value['right']}/{value['of']})"
    return _percent(value)


def _value(key: str, value: float | None) -> str:
    if value is not None and key.endswith("_db"):
        return f"{value:.1f} dB"
    return _percent(value)


def _parts(model: Path) -> str:
    index = json.loads((model / "model_index.json").read_text("utf-8"))
    rows = []
    for part in PARTS:
        path = next((model / part).glob("*.safetensors"))
        with safe_open(path, framework="numpy") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        total = sum(_product(shape) for shape in shapes)
        rows.append(_row(part, index[part][1], f"{total / 1e6:.2f} M", f"{path.stat().st_size / 1e6:.1f} MB"))
    return "\n".join(rows)


def _product(shape: list[int]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def _training(facts: dict[str, dict[str, float]]) -> str:
    if not facts:
        return "No record of the training runs is kept with these weights."
    rows = [_row(RUNS[name], f"{int(run['steps']):,}", f"{run['hours']:.1f}") for name, run in facts.items()]
    return "\n".join(["| run | steps | hours |", "| --- | --- | --- |", *rows])


def _sources() -> str:
    return "\n".join(
        _row(
            f"[{source.title}]({source.url})",
            source.used_for,
            source.artist,
            f"[{source.licence}]({source.licence_url})",
        )
        for source in SOURCES
    )


def render(model: Path, report: dict[str, Any], facts: dict[str, dict[str, float]], grid: str) -> str:
    """The model card of the folder model; report is an evaluation's, facts those of `training_facts`."""
    info = registry.info("mini")
    generated, renderings = report["generated"], report["renderings"]
    natural = report.get("natural", {})
    goals = [
        _row(NAMES[key], f"≥ {_value(key, goal['goal'])}", _value(key, goal["reached"]), _MET[goal["met"]])
        for key, goal in report["goals"].items()
    ]
    shares = [
        _row(name, _figure(generated, key), _figure(natural, key), _figure(renderings, key))
        for key, name in NAMES.items()
        if key in generated
    ]
    accuracy = report["classifier"]["accuracy"]
    size = sum(path.stat().st_size for part in PARTS for path in (model / part).glob("*.safetensors"))
    return Template(TEMPLATE.read_text("utf-8")).substitute(
        licence=info.licence,
        licence_tag=info.licence.lower(),
        megabytes=round(size / 1e6),
        styles=", ".join(FILTERS),
        held_out=f"{HELD_OUT_SEED:,}",
        parts=_parts(model),
        sources=_sources(),
        training=_training(facts),
        goals="\n".join(goals),
        shares="\n".join(shares),
        classifier=", ".join(f"{NAMES[key]} {_percent(accuracy[key])}" for key in NAMES if key in accuracy),
        classifier_pictures=report["classifier"]["held_out_pictures"],
        psnr_pictures=report["vae_psnr_db"]["pictures"],
        psnr_plain=report["vae_psnr_db"]["without_style"],
        grid=grid,
        few_step=few_step_card.section(model / few_step_card.PART, NAMES),
        perception=perception_card.section(model / perception_card.PART),
        **report["settings"],
    )


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, keep the facts of the training runs and write README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("weights/mini"))
    parser.add_argument("--grid", type=Path, default=Path("docs/pictures/grid.png"))
    parser.add_argument("--runs", type=Path, help="folder of the training runs; remembered in training.json")
    options = parser.parse_args(arguments)
    report = json.loads((options.model / "evaluation.json").read_text("utf-8"))
    kept = options.model / "training.json"
    if options.runs:
        kept.write_text(json.dumps(training_facts(options.runs), indent=2) + "\n", encoding="utf-8")
    facts = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    grid = Path(os.path.relpath(options.grid, options.model)).as_posix()
    (options.model / "README.md").write_text(render(options.model, report, facts, grid), encoding="utf-8")


if __name__ == "__main__":
    main()
