"""Marks on the drawings: every component of a DiceBear style sits in a group that names the part it shows.

The groups draw nothing themselves. Knows style definitions; how marks become masks is in `parts`.
"""

import copy
from collections.abc import Mapping
from typing import Any, Final

PREFIX: Final = "part-"
_FACE_DETAILS: Final = {"nose": "head", "eyebrows": "head"}
# Part of each component; what is not named here is `body`, stars are nobody's.
_PARTS: Final[Mapping[str, Mapping[str, str]]] = {
    "toon-head": {**_FACE_DETAILS, "rearHair": "hair", "body": "neck"},
    "avataaars": {**_FACE_DETAILS, "top": "hair", "facialHair": "beard", "accessories": "glasses"},
    "personas": {**_FACE_DETAILS, "facialHair": "beard"},
    "bottts": {},
    "critters": {},
    "planets": {"surface": "planet", "shade": "planet", "moons": "moon"},
    "landscape": {"orb": "sun", **{f"hill{row}": "hills" for row in range(1, 5)}},
    "shapes": {},
}
_OWN_NAMES: Final = ("hair", "head", "clothes", "mouth", "eyes", "beard", "planet", "ring")
# Head and neck are one path in these two: the head's outline, drawn without a fill, tells them apart.
_HEADS: Final = {
    "avataaars": "M140 36a56 56 0 0 0-56 56v6.17A12 12 0 0 0 74 110v14a12 12 0 0 0 10.3 11.88"
    "A56 56 0 0 0 140 186a56 56 0 0 0 55.7-50.12A12 12 0 0 0 206 124v-14"
    "a12 12 0 0 0-10-11.83V92a56 56 0 0 0-56-56",
    "personas": "M32 47A14 14 0 0 1 18.58 37h-.08a4.5 4.5 0 0 1-.5-8.97V27a14 14 0 1 1 28 0v1.03"
    "a4.5 4.5 0 0 1-.58 8.97A14 14 0 0 1 32 47",
}

Node = dict[str, Any]


def _group(part: str, *children: Node) -> Node:
    return {
        "name": "g",
        "type": "element",
        "attributes": {"class": PREFIX + part},
        "children": list(children),
    }


def part_of(style: str, component: str) -> str:
    """The part that a component of a style shows; empty for stars, animations and what is marked inside."""
    if component.startswith("star") or component == "animation" or (style, component) == ("personas", "eyes"):
        return ""
    own = component if component in _OWN_NAMES else "body"
    return _PARTS[style].get(component, own)


def _marked(style: str, node: Node) -> Node:
    if node["type"] == "component":
        part = part_of(style, node["name"])
        return _group(part, node) if part else node
    if "children" not in node:
        return node
    return {**node, "children": [_marked(style, child) for child in node["children"]]}


def _with_head(style: str, node: Node) -> list[Node]:
    """Mark what `_marked` left: the path of all skin as neck, under the unfilled head, and the shades."""
    if node["name"] == "path":
        skin = _group("neck", node)
        if "fill-opacity" in node["attributes"]:
            return [skin]
        head = {"name": "path", "type": "element", "attributes": {"d": _HEADS[style], "fill": "none"}}
        return [skin, _group("head", head)]
    highlight = node["name"] == "g" and "mask" in node["attributes"]
    return [_group("head", node) if highlight else node]


def _mark_eyes(variants: dict[str, Node]) -> None:
    """Mark inside the variants of a component that is both: first the eyes, then lenses and frame."""
    for name, drawn in variants.items():
        eyes = 1 if name in ("glasses", "sunglasses") else len(drawn["elements"])
        groups = [_group("eyes", *drawn["elements"][:eyes]), _group("glasses", *drawn["elements"][eyes:])]
        drawn["elements"] = [group for group in groups if group["children"]]


def marked(style: str, definition: Node) -> Node:
    """A copy of a style's definition that draws the same and says which part every component shows."""
    changed = copy.deepcopy(definition)
    elements = [_marked(style, node) for node in changed["canvas"]["elements"]]
    if style in _HEADS:
        elements = [part for node in elements for part in _with_head(style, node)]
    changed["canvas"]["elements"] = elements
    if style == "personas":
        _mark_eyes(changed["components"]["eyes"]["variants"])
    return changed
