"""Peak memory of a Denoiser, a pipeline and Perception: python -m benchmarks.memory --family sd15.

Each is a process of its own that loads a model of full size with random weights, computes one picture's worth
and says the most memory that it ever had. Needs disk for the weights of one model, no network.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.memory_perception import Work, add_perception
from deployments.engine.work import BatchKey
from weights import clip_bpe, convert, registry

ROLES = ("process", "denoiser", "pipeline", "perception")
_FAMILIES = {"sd15": convert.SD15, "sdxl": convert.SDXL}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--family", choices=["mini", *_FAMILIES], required=True)
    parser.add_argument("--roles", nargs="+", choices=ROLES, default=list(ROLES))
    parser.add_argument("--rows", type=int, default=2, help="rows of the UNet step")
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--folder", type=Path, help="where to make the weights, and to leave them")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.role is not None:
        print(json.dumps(_measured(options)))
        return 0
    kept = options.folder is not None
    folder = options.folder if kept else Path(tempfile.mkdtemp(prefix="limner-memory-"))
    try:
        model_id = "mini" if options.family == "mini" else f"path:{made(folder, options.family)}"
        if "perception" in options.roles and options.family != "mini":
            add_perception(Path(model_id.removeprefix("path:")))
        found = {role: _in_own_process(role, model_id, options) for role in options.roles}
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"family": options.family, "rows": options.rows, **found}))
    return 0


def made(folder: Path, name: str) -> Path:
    """A model folder of the family ``name`` in full size, its weights random; made unless it is there."""
    family, target = _FAMILIES[name], folder / name
    if (target / "model_index.json").exists():
        return target
    some = np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32) * np.float32(0.02)
    block = some.astype(np.float16).tobytes()
    for part, config in convert.family_configs(family).items():
        (target / part).mkdir(parents=True)
        shutil.copyfile(family / part / "config.json", target / part / "config.json")
        _write(target / part / convert.WEIGHT_FILES[part], convert.expected_shapes(part, config), block)
    for tokenizer in family.glob("tokenizer*"):
        clip_bpe.write_tokenizer(target / tokenizer.name, tokenizer / "tokenizer_config.json")
    shutil.copytree(family / "scheduler", target / "scheduler")
    shutil.copyfile(family / "model_index.json", target / "model_index.json")
    return target


def _write(path: Path, shapes: dict[str, tuple[int, ...]], block: bytes) -> None:
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for first in range(0, end, len(block)):
            file.write(block[: end - first])


def _in_own_process(role: str, model_id: str, options: argparse.Namespace) -> Any:
    own = ["--role", role, "--model", model_id, "--family", options.family]
    own += ["--rows", str(options.rows), "--precision", options.precision]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *own], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        return {"failed": ran.stderr.strip().splitlines()[-1:]}
    return json.loads(ran.stdout.splitlines()[-1])


def _measured(options: argparse.Namespace) -> dict[str, float]:
    before = _peak_gb()
    began = time.perf_counter()
    loaded_s, loaded = 0.0, before
    if options.role == "process":
        import diffusers  # noqa: F401
        import ray  # noqa: F401
        import transformers  # noqa: F401
    elif options.role == "denoiser":
        from deployments.engine.network import native_key
        from deployments.engine.unet import load_fast_unet

        unet, dtype = load_fast_unet(
            lambda dtype, device: registry.load_unet(options.model, dtype=dtype, device=device),
            options.precision,
            "cpu",
            0,
        )
        loaded_s, loaded = time.perf_counter() - began, _peak_gb()
        _step(unet, native_key(unet.config), options.rows, dtype)
    elif options.role == "perception":
        work = Work(options.model)
        loaded_s, loaded = time.perf_counter() - began, _peak_gb()
        work.do()
    else:
        import asyncio

        from core.settings import PipelineSettings
        from deployments.pipeline.parts import load_parts

        parts = load_parts(options.model, PipelineSettings(precision="float32"), "cpu")
        loaded_s, loaded = time.perf_counter() - began, _peak_gb()
        asyncio.run(parts.prompts.embeds("a photo of a cat", "blurry"))
        side = parts.info.default_size
        parts.decoder.decode_batch([torch.zeros(parts.latent_shape(side, side))])
    return {"import_gb": before, "loaded_gb": loaded, "peak_gb": _peak_gb(), "load_s": round(loaded_s, 1)}


def _step(unet: Any, key: BatchKey, num_rows: int, dtype: torch.dtype) -> None:
    sample = torch.zeros(num_rows, key.channels, key.height, key.width, dtype=dtype)
    context = torch.zeros(num_rows, key.num_tokens, key.context_dim, dtype=dtype)
    added = {name: torch.zeros(num_rows, *shape, dtype=dtype) for name, shape in key.added_shapes}
    with torch.inference_mode():
        unet(sample, torch.ones(num_rows), context, added_cond_kwargs=added or None, return_dict=False)


def _peak_gb() -> float:
    """The most that was ever resident, in GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9, 2)


if __name__ == "__main__":
    sys.exit(main())
