"""Assemble the model folder from training results: python -m weights.recipe.export --unet DIR ... --out DIR.

Writes the averaged weights as float16 safetensors in the layout that StableDiffusionPipeline reads. Parts
without a result yet are written untrained, so that the rest of the system can be built on the shapes.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from weights.recipe import checkpoint
from weights.recipe.architecture import build_scheduler, build_text_encoder, build_unet, build_vae
from weights.recipe.tokenizer import save_tokenizer

TEXT_PREFIX = "text_encoder."
UNET_PREFIX = "unet."


def averaged(folder: Path, kind: str = "average") -> dict[str, Tensor]:
    """Return the averaged parameters of the checkpoint in folder; raises FileNotFoundError without one."""
    state = checkpoint.load(folder)
    if state is None:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    parameters: dict[str, Tensor] = state[kind]
    return parameters


def load_part(model: nn.Module, parameters: dict[str, Tensor], prefix: str = "") -> None:
    """Copy the parameters that start with prefix into model; raises KeyError when one is missing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameters[prefix + name])


def build_text(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return the untrained text encoder of the tokenizer's vocabulary."""
    return build_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)


def assemble(
    tokenizer_folder: Path, vae_folder: Path | None, unet_folder: Path | None, kind: str = "average"
) -> StableDiffusionPipeline:
    """Return the pipeline in float16.

    vae_folder holds an AutoencoderKL with normalised latents, unet_folder a checkpoint of train_unet.
    """
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    vae = AutoencoderKL.from_pretrained(vae_folder) if vae_folder else build_vae()
    text_encoder, unet = build_text(tokenizer), build_unet()
    if unet_folder:
        parameters = averaged(unet_folder, kind)
        load_part(text_encoder, parameters, TEXT_PREFIX)
        load_part(unet, parameters, UNET_PREFIX)
    return StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder.half(),
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _tidy_configs(folder: Path) -> None:
    """Drop the paths of this machine from every configuration and declare the text encoder float32.

    transformers loads in the declared type, diffusers in float32: otherwise the two would not match.
    """
    for config in [*folder.glob("*.json"), *folder.glob("*/*config.json")]:
        content = json.loads(config.read_text("utf-8"))
        content.pop("_name_or_path", None)
        if config.parent.name == "text_encoder":
            content["dtype"] = "float32"
        config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write(pipeline: StableDiffusionPipeline, out: Path, preview: Path | None) -> None:
    """Write the pipeline's parts over those in out, each swapped in whole; other files there stay."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        fresh = Path(scratch)
        pipeline.save_pretrained(fresh)
        save_tokenizer(pipeline.tokenizer, fresh / "tokenizer")
        _tidy_configs(fresh)
        for weights in fresh.rglob("*.safetensors"):
            weights.chmod(0o644)
        if preview:
            shutil.copy(preview, fresh / "preview.json")
        for part in fresh.iterdir():
            target = out / part.name
            if target.is_dir():
                os.replace(target, fresh.with_name(f"{fresh.name}-{part.name}-old"))
                os.replace(part, target)
                shutil.rmtree(fresh.with_name(f"{fresh.name}-{part.name}-old"))
            else:
                os.replace(part, target)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, assemble and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--latents", type=Path, help="output folder of weights.recipe.latents")
    parser.add_argument("--unet", type=Path, help="output folder of weights.recipe.train_unet")
    parser.add_argument("--out", type=Path, default=Path("weights/mini"))
    parser.add_argument("--kind", choices=("average", "value"), default="average")
    options = parser.parse_args(arguments)
    vae = options.latents / "vae" if options.latents else None
    preview = options.latents / "preview.json" if options.latents else None
    torch.manual_seed(0)
    write(assemble(options.tokenizer, vae, options.unet, options.kind), options.out, preview)
    total = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
