"""Write the few-step adapter of a training run: python -m weights.recipe.export_few_step --run DIR --out DIR.

A LoRA file in float16 that diffusers' load_lora_weights reads; the averaged factors unless told otherwise.
"""

import argparse
import os
from pathlib import Path
from typing import Final

from weights.adapters import Fact, write_peft
from weights.recipe import checkpoint
from weights.recipe.low_rank import adapter_of

FILE: Final = "pytorch_lora_weights.safetensors"


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="output folder of train_few_step")
    parser.add_argument("--out", type=Path, default=Path("weights/mini/few_step"))
    parser.add_argument("--kind", choices=("average", "value"), default="average")
    options = parser.parse_args(arguments)
    state = checkpoint.load(options.run)
    if state is None:
        parser.error(f"no checkpoint in {options.run}")
    facts: dict[str, str] = {Fact.BASE_MODEL: "mini", Fact.STEPS: str(state["step"])}
    written = write_peft(adapter_of(state[options.kind], facts))
    options.out.mkdir(parents=True, exist_ok=True)
    partial = options.out / f"{FILE}.part"
    partial.write_bytes(written)
    os.replace(partial, options.out / FILE)
    print(f"{options.out / FILE}: {len(written) / 1e6:.1f} MB after {state['step']} steps")


if __name__ == "__main__":
    main()
