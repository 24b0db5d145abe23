"""Finish the autoencoder and encode a data set once:
python -m weights.recipe.latents --data DIR --held-out DIR --vae DIR --out DIR.

Writes vae/ (normalised latents), latents.npy [N, 4, 32, 32] float16, preview.json and quality.json.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from weights.recipe.architecture import LATENT_CHANNELS, LATENT_SIZE, VAE_FACTOR, build_vae
from weights.recipe.export import averaged, load_part
from weights.recipe.train_vae import to_tensor
from weights.recipe.vae import normalise_latents, reconstruction_psnr

CHUNK = 500


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, batch: int = 10) -> Tensor:
    """Return the latents [N, 4, h, w] of uint8 pictures [N, H, W, 3], computed in bfloat16."""
    parts = []
    for start in range(0, len(pictures), batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts.append(vae.encode(to_tensor(pictures[start : start + batch])).latent_dist.mode().float())
    return torch.cat(parts)


def finish(folder: Path, pictures: np.ndarray) -> AutoencoderKL:
    """Return the averaged autoencoder of a training folder with its latents normalised over pictures.

    One that was finished before, in a folder of diffusers' layout, is returned as it is.
    """
    if (folder / "config.json").exists():
        finished: AutoencoderKL = AutoencoderKL.from_pretrained(folder, dtype=torch.float32)
        return finished.eval().to(memory_format=torch.channels_last)
    vae = build_vae()
    load_part(vae, averaged(folder))
    vae = vae.eval().to(memory_format=torch.channels_last)
    latents = encode(vae, pictures)
    normalise_latents(vae, latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3)))
    return vae


def fit_preview(latents: Tensor, pictures: np.ndarray) -> dict[str, list[list[float]] | list[float]]:
    """Fit RGB in [0, 1] as a linear map of scaled latents [N, 4, h, w], by least squares.

    Returns the matrix [4][3] and the bias [3].
    """
    small = torch.nn.functional.avg_pool2d(to_tensor(pictures).add(1).div(2), VAE_FACTOR)
    inputs = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).double()
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1).double()], dim=1)
    targets = small.permute(0, 2, 3, 1).reshape(-1, 3).double()
    solution = torch.linalg.lstsq(inputs, targets).solution
    return {"matrix": solution[:-1].tolist(), "bias": solution[-1].tolist()}


def _encode_chunk(vae_folder: Path, data: Path, target: Path, start: int) -> None:
    torch.set_num_threads(1)
    vae = AutoencoderKL.from_pretrained(vae_folder).to(memory_format=torch.channels_last)
    latents = np.load(target, mmap_mode="r+")
    end = min(start + CHUNK, len(latents))
    pictures = np.load(data / "pictures.npy", mmap_mode="r")[start:end]
    latents[start:end] = encode(vae, pictures).half().numpy()
    latents.flush()


def encode_all(vae_folder: Path, data: Path, target: Path, count: int, processes: int) -> None:
    """Encode the first count pictures of a data set into one memory-mapped array at target."""
    shape = (count, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    np.lib.format.open_memmap(target, "w+", np.float16, shape).flush()
    starts = range(0, count, CHUNK)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_encode_chunk, vae_folder, data, target, start) for start in starts]
        for job in tqdm(jobs, desc="encode", mininterval=5):
            job.result()


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line; finish, measure, fit and encode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True, help="output of train_vae, or weights/mini/vae")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num", type=int, help="encode only so many; 0: only finish the autoencoder")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = np.load(options.data / "pictures.npy", mmap_mode="r")
    sample = pictures[:400]
    vae = finish(options.vae, sample)
    vae.save_pretrained(options.out / "vae")
    preview = fit_preview(encode(vae, sample), sample)
    (options.out / "preview.json").write_text(json.dumps(preview) + "\n")
    count = len(pictures) if options.num is None else min(options.num, len(pictures))
    encode_all(options.out / "vae", options.data, options.out / "latents.npy", count, options.processes)
    held_out = np.load(options.held_out / "pictures.npy", mmap_mode="r")[:200]
    quality = {"psnr_db": round(reconstruction_psnr(vae, to_tensor(held_out)), 2), "pictures": len(held_out)}
    (options.out / "quality.json").write_text(json.dumps(quality) + "\n")
    print(quality)


if __name__ == "__main__":
    main()
