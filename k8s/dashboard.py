"""The Grafana dashboard, one page. Knows Grafana's JSON; queries are in panels.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PANELS = Path(__file__).with_name("panels.toml")
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Grafana's grid has 24 columns.
_COLUMNS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A number or a graph. ``queries`` are PromQL with legends, ``bad_from`` is where a number turns red."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str
    kind: Literal["stat", "timeseries"] = "timeseries"
    description: str = ""
    stacked: bool = False
    bad_from: float | None = None


def rows() -> dict[str, tuple[Panel, ...]]:
    """The panels by the heading that they are under. An unknown member of panels.toml is a TypeError."""
    found = tomllib.loads(PANELS.read_text("utf-8"))["row"]
    return {row["title"]: tuple(_read(panel) for panel in row["panel"]) for row in found}


def _read(members: dict[str, Any]) -> Panel:
    queries = tuple((query, legend) for query, legend in members.pop("queries"))
    return Panel(queries=queries, **members)


@dataclass(slots=True)
class _Place:
    """Where the next panel goes: from left to right, line by line."""

    x: int = 0
    y: int = 0
    height: int = 0

    def take(self, width: int, height: int) -> dict[str, int]:
        if self.x + width > _COLUMNS:
            self.new_line()
        taken = {"x": self.x, "y": self.y, "w": width, "h": height}
        self.x += width
        self.height = max(self.height, height)
        return taken

    def new_line(self) -> None:
        self.x, self.y, self.height = 0, self.y + self.height, 0


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it; the datasource is a variable on its page."""
    return {
        "uid": "limner",
        "title": "Limner",
        "tags": ["limner", "ray"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
            ]
        },
        "annotations": {"list": [_firing()]},
        "panels": list(_panels()),
    }


def _firing() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": _DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Limner.*", alertstate="firing"}',
        "titleFormat": "{{alertname}}",
    }


def _panels() -> Iterator[dict[str, Any]]:
    place, number = _Place(), 0
    for title, panels in rows().items():
        place.new_line()
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": place.take(_COLUMNS, 1),
            "panels": [],
        }
        for panel in panels:
            number += 1
            yield _panel(panel, number, place)


def _panel(panel: Panel, number: int, place: _Place) -> dict[str, Any]:
    is_number = panel.kind == "stat"
    thresholds: list[dict[str, Any]] = [{"color": "green", "value": None}]
    thresholds += [{"color": "red", "value": panel.bad_from}] if panel.bad_from is not None else []
    custom = (
        {} if is_number else {"fillOpacity": 10, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    )
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "gridPos": place.take(4, 4) if is_number else place.take(8, 8),
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": thresholds},
                "custom": custom,
            },
            "overrides": [],
        },
        "options": (
            {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background"}
            if is_number
            else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
        ),
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _DATASOURCE, "expr": query, "legendFormat": legend}
            for index, (query, legend) in enumerate(panel.queries)
        ],
    }
