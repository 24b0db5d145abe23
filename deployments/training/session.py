"""One training put together: a model's parts, its photos as latents, and what is left in the end."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers import DDIMScheduler

from core.training_defaults import check_trainable
from core.types import ModelInfo
from deployments.engine.samplers import NoiseSchedule
from deployments.training import dataset, families
from deployments.training.dreambooth import Captions, Trainee
from deployments.training.objective import Objective
from deployments.training.run import TrainingInputs
from deployments.training.sampling import SampleDrawer
from weights import registry
from weights.adapters import AdapterWeights, LoraLayer, write_peft

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A trainee and what surrounds it."""

    inputs: TrainingInputs
    info: ModelInfo
    trainee: Trainee
    captions: Captions
    negative: torch.Tensor
    drawer: SampleDrawer

    @classmethod
    def open(cls, inputs: TrainingInputs) -> Self:
        """Load the model, encode the pictures once, and take up the checkpoint if there is one."""
        device = torch.device(inputs.device)
        if device.type == "cpu":
            torch.set_num_threads(inputs.num_threads or len(os.sched_getaffinity(0)))
        model_id, options = inputs.model_id, inputs.options
        info = registry.info(model_id)
        check_trainable(info.family)
        tokenizer, text_encoder = registry.load_text(model_id)
        vae = registry.load_vae(model_id).to(device)
        scheduler = DDIMScheduler.from_config(registry.scheduler_config(model_id))
        photos = dataset.latents_of(vae, inputs.photos, info.default_size, flip=options.flip, device=device)
        others = None
        if inputs.class_pictures and options.prior_weight > 0:
            others = dataset.latents_of(
                vae, inputs.class_pictures, info.default_size, flip=options.flip, device=device
            )
        captions = Captions(
            _token_ids(tokenizer, families.caption(info.family, inputs.trigger, inputs.subject)),
            _token_ids(tokenizer, families.class_prompt(info.family, inputs.subject)),
        )
        num_timesteps = int(scheduler.config.num_train_timesteps)
        draws = dataset.Draws(photos, others, options.batch_size, num_timesteps, options.seed)
        objective = Objective(
            scheduler.alphas_cumprod, str(scheduler.config.prediction_type), options.min_snr_gamma
        )
        unet = registry.load_unet(model_id)
        trainee = Trainee(unet, text_encoder, captions, draws, objective, options, device)
        if inputs.checkpoint is not None:
            trainee.resume(inputs.checkpoint)
        schedule = NoiseSchedule.from_config(registry.scheduler_config(model_id))
        drawer = SampleDrawer(trainee.unet, trainee.text_encoder, vae, schedule, info, device)
        return cls(inputs, info, trainee, captions, _token_ids(tokenizer, ""), drawer)

    def sample(self) -> bytes:
        """The subject as it is drawn now, a PNG file."""
        return self.drawer.draw(self.captions.photos, self.negative, self.inputs.options.seed)

    def file(self) -> bytes:
        """What was learnt, as a safetensors file in PEFT's layout."""
        learnt = {name: self._layers(state) for name, state in self.trainee.adapters().items()}
        metadata = {
            "limner.base_model": self.inputs.model_id,
            "limner.trigger": self.inputs.trigger,
            "limner.subject": self.inputs.subject,
            "limner.steps": str(self.trainee.step),
        }
        return write_peft(AdapterWeights(learnt["unet"], learnt.get("text_encoder", {}), metadata))

    def _layers(self, state: dict[str, torch.Tensor]) -> dict[str, LoraLayer]:
        alpha = self.inputs.options.alpha
        paths = [key.removesuffix(_DOWN) for key in state if key.endswith(_DOWN)]
        return {
            path.removeprefix("base_model.model."): LoraLayer(state[path + _DOWN], state[path + _UP], alpha)
            for path in paths
        }


def _token_ids(tokenizer: Any, text: str) -> torch.Tensor:
    """``[1, tokens]``, padded to the model's context."""
    ids: torch.Tensor = tokenizer(
        [text],
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids
