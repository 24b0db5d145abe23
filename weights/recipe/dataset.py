"""Renders scenes into one array of pictures and one file of records, in chunks that can be resumed.

Knows seeds, files and worker processes; does not know captions, which are made while training.
"""

import argparse
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from weights.recipe import filters
from weights.recipe.scenes import HELD_OUT_SEED, Record, Scene, draw, rasterize
from weights.recipe.sources import SIZE

PICTURES = "pictures.npy"
RECORDS = "records.jsonl"
_PARTIAL = "pictures.npy.partial"
_CHUNKS = "chunks"
_PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """Seeds `first_seed` to `first_seed + num - 1`, rendered `chunk` at a time."""

    num: int
    first_seed: int
    chunk: int = 250

    def __post_init__(self) -> None:
        if self.num < 1 or self.first_seed < 0 or self.chunk < 1:
            raise ValueError("num and chunk must be at least 1 and first_seed at least 0")
        if self.first_seed < HELD_OUT_SEED < self.first_seed + self.num:
            raise ValueError(f"training seeds end before {HELD_OUT_SEED}, where the held-out ones start")

    def starts(self) -> range:
        """Index of the first picture of each chunk."""
        return range(0, self.num, self.chunk)


def render(scene: Scene) -> Image.Image:
    """The finished RGB picture of a scene, 128 pixels square, its style's filter applied."""
    return filters.apply(scene.style, rasterize(scene.svg))


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".tmp")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _line(scene: Scene) -> str:
    fact = {
        "seed": scene.seed,
        "subject": scene.subject,
        "look": scene.look,
        "style": scene.style,
        "attributes": dict(scene.attributes),
    }
    return json.dumps(fact) + "\n"


def _record(line: str) -> Record:
    return Record(**json.loads(line))


def _records_of(folder: Path, start: int) -> Path:
    return folder / _CHUNKS / f"{start:08d}.jsonl"


def render_chunk(folder: Path, plan: Plan, start: int) -> int:
    """Render one chunk; its records are written last and mark it as finished. Returns its length."""
    pictures = np.lib.format.open_memmap(folder / _PARTIAL, mode="r+")
    lines = []
    for index in range(start, min(start + plan.chunk, plan.num)):
        scene = draw(plan.first_seed + index)
        pictures[index] = np.asarray(render(scene))
        lines.append(_line(scene))
    pictures.flush()
    _write_atomically(_records_of(folder, start), "".join(lines))
    return len(lines)


def _is_complete(folder: Path, plan: Plan) -> bool:
    if not ((folder / PICTURES).exists() and (folder / RECORDS).exists()):
        return False
    _, records = load(folder)
    if len(records) != plan.num or records[0].seed != plan.first_seed:
        raise ValueError(f"{folder} holds other pictures: {len(records)} from seed {records[0].seed}")
    return True


def prepare(folder: Path, plan: Plan) -> None:
    """Lay out the empty array and the plan that later runs must agree with.

    Raises `ValueError` when the folder holds a part of another plan.
    """
    (folder / _CHUNKS).mkdir(parents=True, exist_ok=True)
    wanted = {"num": plan.num, "first_seed": plan.first_seed, "chunk": plan.chunk}
    plan_file = folder / _CHUNKS / _PLAN
    if plan_file.exists():
        if json.loads(plan_file.read_text("utf-8")) != wanted:
            raise ValueError(f"{folder} holds a part of another data set; give another folder or remove it")
        return
    array = np.lib.format.open_memmap(
        folder / _PARTIAL, mode="w+", dtype=np.uint8, shape=(plan.num, SIZE, SIZE, 3)
    )
    array.flush()
    _write_atomically(plan_file, json.dumps(wanted))


def _finish(folder: Path, plan: Plan) -> None:
    lines = "".join(_records_of(folder, start).read_text("utf-8") for start in plan.starts())
    _write_atomically(folder / RECORDS, lines)
    os.replace(folder / _PARTIAL, folder / PICTURES)
    shutil.rmtree(folder / _CHUNKS)


def _chunk_lengths(folder: Path, plan: Plan, starts: list[int], workers: int) -> Iterator[int]:
    if workers == 1:
        yield from (render_chunk(folder, plan, start) for start in starts)
        return
    # Spawned workers share no state with the parent, so the result is the same with any number of them.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        jobs: Iterable[int] = pool.map(render_chunk, [folder] * len(starts), [plan] * len(starts), starts)
        yield from jobs


def build(folder: Path, plan: Plan, workers: int = 1, *, progress: bool = False) -> None:
    """Render what is missing of the plan's pictures into `folder`.

    Raises `ValueError` when the folder holds pictures of another plan.
    """
    if _is_complete(folder, plan):
        return
    prepare(folder, plan)
    missing = [start for start in plan.starts() if not _records_of(folder, start).exists()]
    done = plan.num - sum(min(plan.chunk, plan.num - start) for start in missing)
    with tqdm(total=plan.num, initial=done, unit="picture", disable=not progress) as bar:
        for length in _chunk_lengths(folder, plan, missing, workers):
            bar.update(length)
    _finish(folder, plan)


def load(folder: Path) -> tuple[NDArray[np.uint8], list[Record]]:
    """Pictures [N, 128, 128, 3] (uint8, memory-mapped, read-only) and their N records.

    Raises `FileNotFoundError` when the folder holds no finished data set.
    """
    pictures: NDArray[np.uint8] = np.load(folder / PICTURES, mmap_mode="r")
    with (folder / RECORDS).open(encoding="utf-8") as lines:
        return pictures, [_record(line) for line in lines]


def main() -> None:
    """Command line: render a data set, or what is missing of it."""
    parser = argparse.ArgumentParser(description="Render captionable training pictures.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--num", type=int, default=24_000)
    parser.add_argument("--first-seed", type=int, default=0, help=f"held-out seeds start at {HELD_OUT_SEED}")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    plan = Plan(arguments.num, arguments.first_seed)
    build(arguments.out, plan, arguments.workers, progress=True)


if __name__ == "__main__":
    main()
