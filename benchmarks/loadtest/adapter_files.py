"""Adapters for members: LoRA files of random factors in the layout that diffusers and Limner read."""

from __future__ import annotations

from pathlib import Path

from benchmarks.loadtest.workload import NUM_MEMBERS

RANK = 8
# About as strong as trained ones.
_SCALE = 0.1


def made(folder: Path, model_id: str = "mini") -> list[Path]:
    """A file for each member, named like the adapter in the workload; made where they are not there yet."""
    files = [folder / f"adapter-{number:02}.safetensors" for number in range(NUM_MEMBERS)]
    if all(file.is_file() for file in files):
        return files
    # torch and diffusers take ten seconds to import.
    import torch
    from torch import nn

    from weights import registry
    from weights.adapters import AdapterWeights, LoraLayer, write_peft

    folder.mkdir(parents=True, exist_ok=True)
    targets = {
        path: layer
        for path, layer in registry.load_unet(model_id).named_modules()
        if isinstance(layer, nn.Linear) and path.endswith((".to_q", ".to_k", ".to_v", ".to_out.0"))
    }
    for seed, file in enumerate(files):
        draw = torch.Generator().manual_seed(seed)
        layers = {
            path: LoraLayer(
                torch.randn(RANK, layer.in_features, generator=draw) / layer.in_features**0.5,
                _SCALE * torch.randn(layer.out_features, RANK, generator=draw) / RANK**0.5,
                alpha=float(RANK),
            )
            for path, layer in targets.items()
        }
        file.write_bytes(write_peft(AdapterWeights(layers, {})))
    return files
