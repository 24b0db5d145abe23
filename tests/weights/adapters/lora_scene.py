"""A LoRA as the real libraries make, save and load it, for comparison with ours."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save

from tests.adapter_files import merge
from weights.adapters import AdapterWeights, text_encoder_factors, unet_factors

# alpha is no rank anywhere, and ranks and alphas differ among layers.
UNET = LoraConfig(
    r=4,
    lora_alpha=6,
    rank_pattern={"attn2.to_k": 8},
    alpha_pattern={"conv1": 3.5, "attn2.to_v": 0.3},
    target_modules=[
        *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv_in"),
        *("conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "linear_1"),
    ],
)
TEXT = LoraConfig(r=2, lora_alpha=5, target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"])


class LoraScene:
    """``pipeline`` has the LoRA by PEFT; ``file`` is what diffusers saves of it."""

    def __init__(self, family: Path) -> None:
        self.family = family
        self.pipeline = self.plain()
        for network, config, seed in ((self.pipeline.unet, UNET, 0), (self.pipeline.text_encoder, TEXT, 1)):
            network.add_adapter(config)
            generator = torch.Generator().manual_seed(seed)
            for name, parameter in network.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(parameter, std=0.1, generator=generator)
        self.unet_state = get_peft_model_state_dict(self.pipeline.unet)
        self.text_state = get_peft_model_state_dict(self.pipeline.text_encoder)
        self.file = self._saved(self.unet_state, self.text_state)

    def plain(self) -> Any:
        """The family without the LoRA."""
        return StableDiffusionPipeline.from_pretrained(self.family, safety_checker=None)

    def alphas(self, part: str) -> dict[str, float]:
        """PEFT's alpha of every layer by its path."""
        network = self.pipeline.unet if part == "unet" else self.pipeline.text_encoder
        return {
            path: float(layer.lora_alpha["default"])
            for path, layer in network.named_modules()
            if hasattr(layer, "lora_alpha")
        }

    def kohya_file(self) -> bytes:
        """By diffusers' own conversion, which takes alpha for the rank; so each alpha is put right."""
        prefixed = {f"unet.{key}": value for key, value in self.unet_state.items()}
        prefixed |= {f"text_encoder.{key}": value for key, value in self.text_state.items()}
        state = convert_state_dict_to_kohya(prefixed)
        for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te1_")):
            for path, alpha in self.alphas(part).items():
                key = f"{prefix}{path.replace('.', '_')}.alpha"
                assert key in state
                state[key] = torch.tensor(alpha)
        return save({key: value.contiguous() for key, value in state.items()})

    def old_diffusers_file(self) -> bytes:
        """In the layout of 2023, with PEFT's settings."""
        converted = (convert_state_dict_to_diffusers(state) for state in (self.unet_state, self.text_state))
        return self._saved(*converted)

    def outputs(self, pipeline: Any) -> list[torch.Tensor]:
        """What UNet and text encoder say to the same fixed inputs."""
        generator = torch.Generator().manual_seed(5)
        latents = torch.randn(2, 4, 8, 8, generator=generator)
        context = torch.randn(2, 77, 32, generator=generator)
        ids = torch.randint(0, 30, (2, 77), generator=generator)
        with torch.no_grad():
            return [pipeline.unet(latents, 300, context).sample, pipeline.text_encoder(ids)[0]]

    def merged(self, weights: AdapterWeights) -> Any:
        """The family with the factors of ``weights`` added to its own weights."""
        pipeline = self.plain()
        merge(pipeline.unet, unet_factors(weights))
        merge(pipeline.text_encoder, text_encoder_factors(weights))
        return pipeline

    def loaded(self, data: bytes) -> Any:
        """The family after ``load_lora_weights`` of the file ``data``."""
        pipeline = self.plain()
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "lora.safetensors").write_bytes(data)
            pipeline.load_lora_weights(folder, weight_name="lora.safetensors")
        return pipeline

    def _saved(self, unet_state: dict[str, torch.Tensor], text_state: dict[str, torch.Tensor]) -> bytes:
        networks = {"unet": self.pipeline.unet, "text_encoder": self.pipeline.text_encoder}
        with tempfile.TemporaryDirectory() as folder:
            self.pipeline.save_lora_weights(
                folder,
                unet_lora_layers=unet_state,
                text_encoder_lora_layers=text_state,
                **_collate_lora_metadata(networks),
            )
            return Path(folder, "pytorch_lora_weights.safetensors").read_bytes()
