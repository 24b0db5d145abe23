"""Pictures of the subject while it is being learnt, drawn with the networks in training. Knows the engine."""

from __future__ import annotations

from typing import Any

import torch

from core import images
from core.errors import GenerationFailed
from core.types import ModelInfo, OutputFormat
from deployments.engine.cost import CostModel
from deployments.engine.engine import Engine
from deployments.engine.request import DenoiseEvent, DenoiseRequest, Done, Failed, noise_for
from deployments.engine.samplers import NoiseSchedule

# Nobody waits for these pictures alone, but they hold up the training.
_MAX_STEPS = 20
_GUIDED_ROWS = 2


class SampleDrawer:
    """Draws one prompt with the networks as they stand; the seed makes samples of a training comparable."""

    def __init__(
        self,
        unet: Any,
        text_encoder: Any,
        vae: Any,
        schedule: NoiseSchedule,
        info: ModelInfo,
        device: torch.device,
    ) -> None:
        self._unet, self._text_encoder, self._vae = unet, text_encoder, vae
        self._schedule, self._info, self._device = schedule, info, device

    def draw(self, token_ids: torch.Tensor, negative_ids: torch.Tensor, seed: int) -> bytes:
        """A PNG file of the prompt with ``token_ids`` ``[1, tokens]``."""
        training = self._unet.training
        self._unet.eval()
        try:
            with torch.no_grad(), torch.autocast(self._device.type, dtype=torch.bfloat16):
                both = self._text_encoder(torch.cat([token_ids, negative_ids]).to(self._device))
                prompt, negative = both.last_hidden_state.float().cpu().unbind()
                latents = self._denoised(prompt, negative, seed)
            return self._decoded(latents)
        finally:
            self._unet.train(training)

    def _denoised(self, prompt: torch.Tensor, negative: torch.Tensor, seed: int) -> torch.Tensor:
        info, config = self._info, self._unet.config
        side = info.default_size // (2 ** (len(self._vae.config.block_out_channels) - 1))
        engine = Engine(
            self._unet,
            self._schedule,
            dtype=torch.float32,
            device=self._device,
            max_rows=_GUIDED_ROWS,
            max_queued_requests=1,
            cost=CostModel(),
        )
        events: list[DenoiseEvent] = []
        request = DenoiseRequest(
            request_id="sample",
            prompt_embeds=prompt,
            negative_embeds=negative,
            noise=noise_for(seed, (config.out_channels, side, side)),
            sampler=info.default_sampler,
            num_inference_steps=min(_MAX_STEPS, info.default_num_inference_steps),
            guidance_scale=info.default_guidance_scale,
            seed=seed,
        )
        engine.submit(request, events.append)
        while not events or not isinstance(events[-1], Done | Failed):
            engine.step()
        if not isinstance(events[-1], Done):
            raise GenerationFailed("No sample picture could be drawn.")
        return events[-1].latents

    @torch.no_grad()
    def _decoded(self, latents: torch.Tensor) -> bytes:
        scaled = (latents / self._vae.config.scaling_factor)[None].to(self._device)
        pixels = self._vae.decode(scaled).sample[0].float().clamp(-1, 1).add(1).mul(127.5).round().byte()
        return images.encode(pixels.permute(1, 2, 0).cpu().numpy(), OutputFormat.PNG)
