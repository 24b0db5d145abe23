"""The section of the model card on CLIP and CLIPSeg: every figure from their evaluation.json.

Knows figures and Markdown; nothing about networks.
"""

import json
from pathlib import Path
from string import Template
from typing import Any, Final

from weights.perception import PART

__all__ = ["PART", "section"]
TEMPLATE: Final = Path(__file__).with_suffix(".md")
_NAMES: Final = {
    "mean_iou": "mean IoU of the eleven classes",
    "no_false_alarm": "absent words that find nothing",
    "man_or_woman": "man or woman",
    "hair_color": "hair colour",
    "clothes_color": "clothes' colour",
}


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _goals(goals: dict[str, Any]) -> str:
    rows = [
        f"| {_NAMES.get(key, key)} | ≥ {_share(goal['goal'])} | {_share(goal['reached'])} | "
        f"{'yes' if goal['met'] else 'no'} |"
        for key, goal in goals.items()
    ]
    return "\n".join(rows)


def _classes(report: dict[str, Any]) -> str:
    kinds = ("plain", "varied", "softened")
    parts = report["plain"]["iou"]
    rows = []
    for part in sorted(parts, key=lambda name: -parts[name]["mean"]):
        means = [report[kind]["iou"].get(part, {}).get("mean") for kind in kinds]
        rows.append(f"| {part} | {' | '.join(map(_share, means))} | {parts[part]['of']} |")
    return "\n".join(rows)


def _zero_shot(report: dict[str, Any]) -> str:
    found = report["plain"]["zero_shot"]
    return ", ".join(f"{_NAMES.get(key, key)} {100 * found[key]['share']:.1f} %" for key in found)


def section(folder: Path) -> str:
    """Markdown on the CLIPSeg in folder, ending in an empty line; empty text when it was not measured."""
    measured = folder / "evaluation.json"
    if not measured.exists():
        return ""
    report = json.loads(measured.read_text("utf-8"))
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    training = report.get("training", {"steps": "–", "hours": "–"})
    return Template(TEMPLATE.read_text("utf-8")).substitute(
        megabytes=f"{size / 1e6:.1f}",
        num=report["settings"]["num"],
        steps=training["steps"],
        hours=training["hours"],
        goals=_goals(report["goals"]),
        classes=_classes(report),
        zero_shot=_zero_shot(report),
        alarms=f"{100 * report['plain']['false_alarms']['share']:.1f}",
    )
