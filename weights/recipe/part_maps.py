"""Draw the part maps of a data set's first pictures: python -m weights.recipe.part_maps --data DIR --num N.

With --vae, the first of them also go through the autoencoder and back, so that training meets its softness.
Knows files and worker processes; what a part is, is in `parts`.
"""

import argparse
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from tqdm import tqdm

from weights.recipe import dataset
from weights.recipe.parts import part_map
from weights.recipe.scenes import draw
from weights.recipe.sources import SIZE
from weights.recipe.train_vae import to_tensor

FILE = "parts.npy"
ROUND_TRIPS = "round_trips.npy"
_CHUNK = 100
_BATCH = 8


def _maps(seeds: list[int]) -> NDArray[np.uint16]:
    return np.stack([part_map(draw(seed)) for seed in seeds])


def build(folder: Path, num: int, workers: int = 1, *, progress: bool = False) -> None:
    """Write the part maps [num, 128, 128] (uint16) of the data set in folder, unless they are there."""
    target = folder / FILE
    if target.exists() and len(load(folder)) >= num:
        return
    seeds = [record.seed for record in dataset.load(folder)[1][:num]]
    chunks = [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]
    partial = target.with_suffix(".npy.partial")
    maps = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint16, shape=(len(seeds), SIZE, SIZE))
    done = 0
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        found: Iterable[NDArray[np.uint16]] = pool.map(_maps, chunks) if workers > 1 else map(_maps, chunks)
        for chunk in tqdm(found, total=len(chunks), unit=f"{_CHUNK} maps", disable=not progress):
            maps[done : done + len(chunk)] = chunk
            done += len(chunk)
    maps.flush()
    os.replace(partial, target)


def load(folder: Path) -> NDArray[np.uint16]:
    """The part maps [N, 128, 128] of the folder's first N pictures, memory-mapped, read-only.

    Raises `FileNotFoundError` when none were drawn.
    """
    maps: NDArray[np.uint16] = np.load(folder / FILE, mmap_mode="r")
    return maps


@torch.inference_mode()
def round_trips(vae: AutoencoderKL, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures [N, H, W, 3] encoded and decoded again."""
    done = []
    for start in tqdm(range(0, len(pictures), _BATCH), unit=f"{_BATCH} pictures", mininterval=5):
        batch = to_tensor(pictures[start : start + _BATCH])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            decoded = vae.decode(vae.encode(batch).latent_dist.mode()).sample
        levels = decoded.float().clamp(-1, 1).add(1).mul(127.5).round().byte()
        done.append(levels.permute(0, 2, 3, 1).numpy())
    return np.concatenate(done)


def load_round_trips(folder: Path) -> NDArray[np.uint8]:
    """The folder's first pictures [N, 128, 128, 3] as the autoencoder gives them back; N may be 0."""
    path = folder / ROUND_TRIPS
    if not path.exists():
        return np.zeros((0, SIZE, SIZE, 3), np.uint8)
    softened: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return softened


def main(arguments: list[str] | None = None) -> None:
    """Command line: draw the part maps of a data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of weights.recipe.dataset")
    parser.add_argument("--num", type=int, default=16_000, help="pictures, from the first on")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--vae", type=Path, help="folder of the autoencoder for round trips")
    parser.add_argument("--num-round-trips", type=int, default=2000)
    options = parser.parse_args(arguments)
    build(options.data, options.num, options.workers, progress=True)
    if options.vae and not (options.data / ROUND_TRIPS).exists():
        vae = AutoencoderKL.from_pretrained(options.vae, dtype=torch.float32)
        pictures = dataset.load(options.data)[0][: options.num_round_trips]
        np.save(options.data / ROUND_TRIPS, round_trips(vae, pictures))


if __name__ == "__main__":
    main()
