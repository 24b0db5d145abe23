"""Connected regions of a mask. Knows arrays alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Pixels that touch each other, ``where`` in the whole mask, and the box around them (ends excluded)."""

    where: Mask
    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        return int(self.where.sum())


def regions_of(mask: Mask, min_area: int = 1) -> list[Region]:
    """The 4-connected regions of ``mask`` ``[height, width]`` of ``min_area`` pixels or more, largest first.

    Runs of each row are joined with those they touch in the row above, so the time grows with the number
    of runs and not with the length of a region's paths.
    """
    parents: list[int] = []
    runs: list[tuple[int, int, int]] = []
    above: list[int] = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate(([False], row, [False])).astype(np.int8)))
        current: list[int] = []
        first = 0
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            run = len(runs)
            runs.append((y, start, end))
            parents.append(run)
            while first < len(above) and runs[above[first]][2] <= start:
                first += 1
            for other in above[first:]:
                if runs[other][1] >= end:
                    break
                _join(parents, other, run)
            current.append(run)
        above = current
    return _gathered(mask, runs, parents, min_area)


def _gathered(
    mask: Mask, runs: list[tuple[int, int, int]], parents: list[int], min_area: int
) -> list[Region]:
    members: dict[int, list[tuple[int, int, int]]] = {}
    for run, place in enumerate(runs):
        members.setdefault(_root(parents, run), []).append(place)
    regions = []
    for places in members.values():
        if sum(end - start for _, start, end in places) < min_area:
            continue
        where = np.zeros_like(mask)
        for y, start, end in places:
            where[y, start:end] = True
        regions.append(
            Region(
                where,
                top=places[0][0],
                left=min(start for _, start, _ in places),
                bottom=places[-1][0] + 1,
                right=max(end for _, _, end in places),
            )
        )
    return sorted(regions, key=lambda region: -region.area)


def _root(parents: list[int], run: int) -> int:
    while parents[run] != run:
        parents[run] = parents[parents[run]]
        run = parents[run]
    return run


def _join(parents: list[int], one: int, other: int) -> None:
    first, second = _root(parents, one), _root(parents, other)
    parents[max(first, second)] = min(first, second)
