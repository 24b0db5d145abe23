"""Write the trained CLIPSeg into the model folder: python -m weights.recipe.export_perception --run DIR ...

Averaged weights as float16 safetensors and CLIP's preprocessor_config.json; knows nothing about training.
Runs that part from one another late may be averaged once more (Wortsman et al. 2022, arXiv:2203.05482).
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from weights.perception import PART
from weights.recipe.architecture import RESOLUTION
from weights.recipe.export import averaged, load_part
from weights.recipe.perception import build_clipseg

_PREFIX = "clipseg."
_PREPROCESSING = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "CLIPSegProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": RESOLUTION, "width": RESOLUTION},
}


def trained(tokenizer_folder: Path, run: Path, kind: str = "average") -> CLIPSegForImageSegmentation:
    """The network of the checkpoint in run, float32.

    Raises `FileNotFoundError` without a checkpoint and `RuntimeError` when it is of another size.
    """
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    network = build_clipseg(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    load_part(network, averaged(run, kind), _PREFIX)
    return network.eval().requires_grad_(False)


def mean_of(networks: Sequence[CLIPSegForImageSegmentation]) -> CLIPSegForImageSegmentation:
    """The first of networks of one size, with the mean of the weights of all."""
    first, *others = networks
    states = [network.state_dict() for network in others]
    with torch.no_grad():
        for name, tensor in first.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.stack([tensor, *(state[name] for state in states)]).mean(0))
    return first


def write(network: CLIPSegForImageSegmentation, out: Path) -> None:
    """Write the network's files to out, swapped in whole; a figure file that lies there stays."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        fresh = Path(scratch) / PART
        network.half().save_pretrained(fresh)
        config_path = fresh / "config.json"
        config = json.loads(config_path.read_text("utf-8"))
        config.pop("_name_or_path", None)
        # transformers loads in the declared type, which has to suit a processor.
        config["dtype"] = "float32"
        config_path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        text = json.dumps(_PREPROCESSING, indent=2) + "\n"
        (fresh / "preprocessor_config.json").write_text(text, encoding="utf-8")
        for weights in fresh.glob("*.safetensors"):
            weights.chmod(0o644)
        if (out / "evaluation.json").exists():
            shutil.copy(out / "evaluation.json", fresh)
        if out.exists():
            os.replace(out, Path(scratch) / "old")
        os.replace(fresh, out)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument(
        "--run", type=Path, nargs="+", required=True, help="output folders of train_perception, averaged"
    )
    parser.add_argument("--out", type=Path, default=Path("weights/mini") / PART)
    parser.add_argument("--kind", choices=("average", "value"), default="average")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    write(mean_of([trained(options.tokenizer, run, options.kind) for run in options.run]), options.out)
    total = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
