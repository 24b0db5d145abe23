"""What the teacher draws, step by step: python -m weights.recipe.trajectories --data DIR --out DIR.

From noise through a few anchors of the schedule to the clean latents, with guidance, in chunks that can be
resumed. With --student the way is that of the few-step adapter, and the teacher answers at each anchor. With
--weak the guidance points away from what a checkpoint of less training draws without a caption, so that it
leads towards better drawing as well as towards the caption (autoguidance, Karras et al. 2024, in the place of
the second prediction that classifier-free guidance makes anyway).
"""

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from weights.recipe import dataset
from weights.recipe.architecture import LATENT_CHANNELS, LATENT_SIZE, build_scheduler
from weights.recipe.captions import canonical, caption
from weights.recipe.export import UNET_PREFIX, averaged, load_part
from weights.recipe.low_rank import merge
from weights.recipe.scenes import Record

NUM_ANCHORS: Final = 4
CHUNK: Final = 24
# Of the captions, this share says everything about its scene.
FULL_SHARE: Final = 0.4


class Pairs(NamedTuple):
    """Where each step begins and where the teacher ends it, ``[N, anchors, 4, h, w]`` float16, and the
    captions' tokens ``[N, 77]``."""

    starts: NDArray[np.float16]
    ends: NDArray[np.float16]
    tokens: NDArray[np.int16]


@dataclass(frozen=True)
class Plan:
    """``first`` is the number of the first trajectory, which is also the seed of its noise and caption.

    The teacher takes ``substeps`` steps of DPM-Solver++ 2M (Lu et al. 2022) from anchor to anchor.
    """

    model: Path
    data: Path
    out: Path
    first: int
    num: int
    guidance: float
    substeps: int
    student: Path | None = None
    weak: Path | None = None


def anchor_signal() -> tuple[list[int], Tensor, Tensor]:
    """The anchors' timesteps, and signal and spread of the noise there and at the end, ``[anchors + 1]``."""
    scheduler = build_scheduler()
    scheduler.set_timesteps(NUM_ANCHORS)
    timesteps = [int(t) for t in scheduler.timesteps]
    alphas = torch.cat([scheduler.alphas_cumprod[timesteps], scheduler.final_alpha_cumprod.view(1)])
    return timesteps, alphas.sqrt(), (1 - alphas).sqrt()


def step_of(v: Tensor, x: Tensor, signal: Tensor, spread: Tensor, anchors: Tensor) -> Tensor:
    """The DDIM step (Song et al. 2021) from ``anchors`` ``[B]`` to the next ones, along predictions ``v``."""
    at, to = anchors.view(-1, 1, 1, 1), anchors.view(-1, 1, 1, 1) + 1
    clean, noise = signal[at] * x - spread[at] * v, signal[at] * v + spread[at] * x
    return signal[to] * clean + spread[to] * noise


def velocity_of(x: Tensor, x_next: Tensor, signal: Tensor, spread: Tensor, anchors: Tensor) -> Tensor:
    """The v whose :func:`step_of` from ``x`` ends at ``x_next``."""
    at, to = anchors.view(-1, 1, 1, 1), anchors.view(-1, 1, 1, 1) + 1
    of_x = signal[to] * signal[at] + spread[to] * spread[at]
    of_v = spread[to] * signal[at] - signal[to] * spread[at]
    return (x_next - of_x * x) / of_v


class Tutor:
    """The networks of one process, and the two ways through the anchors."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._tokenizer = CLIPTokenizer.from_pretrained(plan.model / "tokenizer")
        self._encoder = CLIPTextModel.from_pretrained(plan.model / "text_encoder", dtype=torch.float32)
        self._teacher = self._unet()
        self._student = merge(self._unet(), plan.student) if plan.student else None
        self._weak = self._unet(plan.weak) if plan.weak else self._teacher
        self._records: list[Record] = list(dataset.load(plan.data)[1])
        self._timesteps, self._signal, self._spread = anchor_signal()

    def _unet(self, run: Path | None = None) -> UNet2DConditionModel:
        """The model's UNet, or as it stood at the checkpoint in ``run``, not averaged."""
        unet = UNet2DConditionModel.from_pretrained(self._plan.model / "unet", dtype=torch.float32)
        if run:
            load_part(unet, averaged(run, "value"), UNET_PREFIX)
        return unet.eval().to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def pairs(self, numbers: Sequence[int]) -> Pairs:
        """The pairs of the trajectories with these numbers."""
        texts = [self._caption(Random(number)) for number in numbers]
        ids, empty = self._ids(texts), self._ids([""])
        shape = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
        x = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n in numbers])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            context = self._encoder(input_ids=ids).last_hidden_state
            none = self._encoder(input_ids=empty).last_hidden_state.expand_as(context)
            starts, ends = self._walk(x, none, context)
        return Pairs(
            torch.stack(starts, 1).half().numpy(),
            torch.stack(ends, 1).half().numpy(),
            ids.numpy().astype(np.int16),
        )

    def _walk(self, x: Tensor, none: Tensor, context: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        starts, ends = [], []
        solver = self._solver()
        for anchor in range(NUM_ANCHORS):
            starts.append(x)
            if self._student is not None:
                solver = self._solver(anchor)
            end = self._teach(solver, x, none, context, anchor)
            ends.append(end)
            x = end if self._student is None else self._follow(x, context, anchor)
        return starts, ends

    def _solver(self, anchor: int = 0) -> Any:
        solver: Any = DPMSolverMultistepScheduler.from_config(build_scheduler().config)
        solver.set_timesteps(NUM_ANCHORS * self._plan.substeps)
        solver.set_begin_index(anchor * self._plan.substeps)
        return solver

    def _teach(self, solver: Any, x: Tensor, none: Tensor, context: Tensor, anchor: int) -> Tensor:
        first = anchor * self._plan.substeps
        for timestep in solver.timesteps[first : first + self._plan.substeps]:
            inputs = x.contiguous(memory_format=torch.channels_last)
            away = self._weak(inputs, timestep, none).sample.float()
            asked = self._teacher(inputs, timestep, context).sample.float()
            x = solver.step(away + self._plan.guidance * (asked - away), timestep, x).prev_sample
        return x

    def _follow(self, x: Tensor, context: Tensor, anchor: int) -> Tensor:
        assert self._student is not None
        inputs = x.contiguous(memory_format=torch.channels_last)
        v = self._student(inputs, self._timesteps[anchor], context).sample.float()
        return step_of(v, x, self._signal, self._spread, torch.full((len(x),), anchor))

    def _caption(self, rng: Random) -> str:
        record = rng.choice(self._records)
        return canonical(record) if rng.random() < FULL_SHARE else caption(record, rng)

    def _ids(self, texts: Sequence[str]) -> Tensor:
        encoded = self._tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        ids: Tensor = encoded.input_ids
        return ids


def load(folders: Sequence[Path]) -> Pairs:
    """All pairs in ``folders``, in the order of their names; raises FileNotFoundError for none."""
    paths = [path for folder in folders for path in sorted(folder.glob("pairs-*.npz"))]
    if not paths:
        raise FileNotFoundError(f"no pairs in {', '.join(map(str, folders))}")
    parts = []
    for path in paths:
        with np.load(path) as stored:
            parts.append(Pairs(stored["starts"], stored["ends"], stored["tokens"]))
    return Pairs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


_tutor: list[Tutor] = []


def _open(plan: Plan) -> None:
    torch.set_num_threads(1)
    _tutor.append(Tutor(plan))


def _write_here(target: Path, numbers: Sequence[int]) -> None:
    _write(_tutor[0], target, numbers)


def _write(tutor: Tutor, target: Path, numbers: Sequence[int]) -> None:
    made = tutor.pairs(numbers)
    partial = target.with_suffix(".tmp")
    with partial.open("wb") as file:
        np.savez(file, **made._asdict())
    os.replace(partial, target)


def build(plan: Plan, processes: int) -> None:
    """Write the chunks that are not there yet."""
    plan.out.mkdir(parents=True, exist_ok=True)
    end = plan.first + plan.num
    todo = {
        plan.out / f"pairs-{start:08d}.npz": range(start, min(start + CHUNK, end))
        for start in range(plan.first, end, CHUNK)
    }
    missing = {target: numbers for target, numbers in todo.items() if not target.exists()}
    if processes == 1 and missing:
        tutor = Tutor(plan)
        for target, numbers in missing.items():
            _write(tutor, target, numbers)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_open, initargs=(plan,)) as pool:
        jobs = [pool.submit(_write_here, target, numbers) for target, numbers in missing.items()]
        for job in tqdm(jobs, unit="chunk", mininterval=5):
            job.result()


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("weights/mini"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--num", type=int, default=4_000)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--substeps", type=int, default=3)
    parser.add_argument("--student", type=Path, help="an adapter file of export_few_step")
    parser.add_argument("--weak", type=Path, help="folder of train_unet's checkpoint after less training")
    parser.add_argument("--processes", type=int, default=2)
    options = vars(parser.parse_args(arguments))
    processes = options.pop("processes")
    build(Plan(**options), processes)


if __name__ == "__main__":
    main()
