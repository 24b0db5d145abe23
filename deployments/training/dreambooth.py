"""DreamBooth with LoRA: the network that learns, one optimizer step at a time, and the state to go on from.

Knows tensors, PEFT and accelerate; not photos, files, jobs or where progress goes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from torch import Tensor, nn

from core.errors import GenerationFailed
from core.training import TrainingOptions
from deployments.training.dataset import Draws
from deployments.training.objective import Objective, cosine, weighted_mean

ADAPTER = "default"
UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
# kohya's readers take a text encoder's adapter only with out_proj in it.
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
_MAX_GRADIENT_NORM = 1.0
_WEIGHT_DECAY = 1e-2


class Captions(NamedTuple):
    """Token ids ``[1, tokens]`` of the photos' caption and of the class pictures'."""

    photos: Tensor
    others: Tensor


class Trainee:
    """A UNet, and a text encoder if that learns too, with adapters of ``options`` in training.

    ``step`` counts optimizer steps that are done. The same inputs give the same adapter, also when the
    training was cut and taken up from :meth:`state`.
    """

    def __init__(
        self,
        unet: nn.Module,
        text_encoder: nn.Module,
        captions: Captions,
        draws: Draws,
        objective: Objective,
        options: TrainingOptions,
        device: torch.device,
    ) -> None:
        self._options, self._draws, self._objective = options, draws, objective
        half = torch.bfloat16 if device.type == "cpu" or torch.cuda.is_bf16_supported() else torch.float16
        self._accelerator = Accelerator(
            mixed_precision="bf16" if half is torch.bfloat16 else "fp16",
            gradient_accumulation_steps=options.gradient_accumulation,
            cpu=device.type == "cpu",
        )
        # The adapters start alike for the same seed; what else the process draws is left alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            # What does not learn need not be cast again in every call; on a CPU that saves nothing.
            unet = unet.to(device) if device.type == "cpu" else unet.to(device, half)
            self.unet = _with_adapter(unet, UNET_TARGETS, options)
            self.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            text_encoder = text_encoder.to(device)
            if options.train_text_encoder:
                text_encoder = _with_adapter(text_encoder, TEXT_TARGETS, options)
        self.text_encoder = text_encoder
        self._captions = Captions(*(ids.to(device) for ids in captions))
        self._contexts = None if options.train_text_encoder else self._encoded()
        groups = [{"params": _trained(self.unet), "lr": options.learning_rate}]
        if options.train_text_encoder:
            groups.append({"params": _trained(text_encoder), "lr": options.text_encoder_learning_rate})
        optimizer = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: cosine(step, options.warmup_steps, options.num_steps)
        )
        self._network, self._optimizer = self._accelerator.prepare(self.unet, optimizer)
        self._schedule = schedule
        self._device = device
        self.step = 0

    def advance(self) -> float:
        """One optimizer step; returns its loss. Raises :class:`GenerationFailed` if that is not finite."""
        accumulation, total = self._options.gradient_accumulation, 0.0
        for micro in range(accumulation):
            with self._accelerator.accumulate(self._network):
                loss = self._loss(self.step * accumulation + micro)
                self._accelerator.backward(loss)
                if self._accelerator.sync_gradients:
                    parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
                    self._accelerator.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
                self._optimizer.step()
                self._optimizer.zero_grad()
            total += float(loss.detach()) / accumulation
        if not total < float("inf"):
            raise GenerationFailed("The training diverged: its loss is not finite.")
        self._schedule.step()
        self.step += 1
        return total

    def _loss(self, number: int) -> Tensor:
        draw = self._draws[number]
        latents, noise, timesteps = (
            part.to(self._device) for part in (draw.latents, draw.noise, draw.timesteps)
        )
        photos, others = self._encoded() if self._contexts is None else self._contexts
        context = torch.cat(
            [
                photos.expand(draw.num_photos, -1, -1),
                others.expand(len(latents) - draw.num_photos, -1, -1),
            ]
        )
        noisy = self._objective.noisy(latents, noise, timesteps).contiguous(memory_format=torch.channels_last)
        predicted = self._network(noisy, timesteps, context, return_dict=False)[0]
        target = self._objective.target(latents, noise, timesteps)
        losses = self._objective.loss(predicted, target, timesteps)
        return weighted_mean(losses, draw.num_photos, self._options.prior_weight)

    def _encoded(self) -> tuple[Tensor, Tensor]:
        """Prompt embeddings ``[1, tokens, width]`` of both captions."""
        with torch.set_grad_enabled(self._options.train_text_encoder):
            both = self.text_encoder(torch.cat(list(self._captions))).last_hidden_state
        return both[:1], both[1:]

    def adapters(self) -> dict[str, dict[str, Tensor]]:
        """What was learnt, by network ("unet", "text_encoder"): PEFT's keys, CPU float32."""
        networks = {"unet": self.unet}
        if self._options.train_text_encoder:
            networks["text_encoder"] = self.text_encoder
        return {
            name: {
                key: value.detach().to("cpu", torch.float32, copy=True).contiguous()
                for key, value in get_peft_model_state_dict(network, adapter_name=ADAPTER).items()
            }
            for name, network in networks.items()
        }

    def state(self) -> bytes:
        """Adapters, optimizer and step, for :meth:`resume` of another trainee of the same inputs."""
        file = io.BytesIO()
        state = {
            "adapters": self.adapters(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict()["last_epoch"],
            "step": self.step,
        }
        torch.save(state, file)
        return file.getvalue()

    def resume(self, state: bytes) -> None:
        """Go on from a :meth:`state`. Raises what ``torch.load`` and PEFT raise if it does not fit."""
        loaded: Mapping[str, Any] = torch.load(io.BytesIO(state), weights_only=True)
        networks = {"unet": self.unet, "text_encoder": self.text_encoder}
        for name, weights in loaded["adapters"].items():
            set_peft_model_state_dict(networks[name], weights, adapter_name=ADAPTER)
        self._optimizer.load_state_dict(loaded["optimizer"])
        self._schedule.last_epoch = loaded["schedule"]
        self.step = loaded["step"]


def lora_config(targets: Sequence[str], options: TrainingOptions) -> LoraConfig:
    """PEFT's description of an adapter of ``options`` on ``targets``."""
    return LoraConfig(
        r=options.rank, lora_alpha=options.alpha, target_modules=list(targets), init_lora_weights="gaussian"
    )


def _with_adapter(network: nn.Module, targets: Sequence[str], options: TrainingOptions) -> nn.Module:
    network.requires_grad_(False)
    adapted: nn.Module = inject_adapter_in_model(lora_config(targets, options), network, adapter_name=ADAPTER)
    return adapted


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
