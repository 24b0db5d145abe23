"""The section of the model card on the few-step adapter: every figure from its evaluation.json.

Knows figures and Markdown; nothing about networks.
"""

import json
from pathlib import Path
from string import Template
from typing import Any, Final

from weights.registry import FEW_STEP as PART

__all__ = ["PART", "section"]
TEMPLATE: Final = Path(__file__).with_suffix(".md")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _share(figures: dict[str, Any], key: str) -> float | None:
    value = figures.get(key)
    found: float | None = value["share"] if isinstance(value, dict) else value
    return found


def _rows(report: dict[str, Any], names: dict[str, str]) -> str:
    few, ordinary = report["few_step"], report["ordinary"]
    return "\n".join(
        f"| {name} | {_percent(_share(few, key))} | {_percent(_share(ordinary, key))} |"
        for key, name in names.items()
        if key in ordinary
    )


def section(folder: Path, names: dict[str, str]) -> str:
    """Markdown on the adapter in folder, ending in an empty line; empty text when it was not measured.

    names are those of the figures, by their keys.
    """
    measured = folder / "evaluation.json"
    if not measured.exists():
        return ""
    report = json.loads(measured.read_text("utf-8"))
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    settings = report["settings"]
    return Template(TEMPLATE.read_text("utf-8")).substitute(
        megabytes=f"{size / 1e6:.1f}",
        rows=_rows(report, names),
        goal=f"{100 * report['goal']['at_most']:.0f}",
        met="met" if report["goal"]["met"] else "not met",
        psnr=f"{report['psnr_db']:.1f}",
        sharpness=f"{100 * report['sharpness']:.0f}",
        **{key: settings[key] for key in ("num", "steps", "guidance", "sampler")},
    )
