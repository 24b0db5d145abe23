"""Every setting of Limner, typed, frozen, unknown keys refused. The only file that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["auto", "float32", "bfloat16", "float16"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RequestLimits(_Frozen):
    """What one request may ask for."""

    max_prompt_chars: int = Field(2_000, ge=1)
    max_num_inference_steps: int = Field(150, ge=1, le=1_000)
    max_images: int = Field(10, ge=1)
    max_guidance_scale: float = Field(30.0, gt=1)
    max_body_bytes: int = Field(1_000_000, ge=1_000)
    max_deadline_s: float = Field(600.0, gt=0)


class RouterSettings(_Frozen):
    """The ingress."""

    limits: RequestLimits = RequestLimits()
    num_replicas: int = Field(1, ge=1)
    max_ongoing_requests: int = Field(512, ge=1)
    cors_origins: tuple[str, ...] = ()


class DenoiserSettings(_Frozen):
    """The replica class that owns the UNet.

    ``precision`` "auto" measures at start and takes the fastest one the device is good at.
    ``num_threads`` 0 takes every core that the process may use.
    """

    precision: Precision = "auto"
    num_threads: int = Field(0, ge=0)
    max_rows: int = Field(16, ge=2)
    max_queued_requests: int = Field(64, ge=1)
    gpu_share: float = Field(0.6, gt=0)
    num_replicas: int = Field(1, ge=1)
    drain_timeout_s: float = Field(30.0, gt=0)


class TextToImageSettings(_Frozen):
    """The text-to-image replica class: text encoder, VAE, picture files."""

    precision: Precision = "auto"
    num_threads: int = Field(0, ge=0)
    max_decode_batch: int = Field(8, ge=1)
    embedding_cache_entries: int = Field(512, ge=0)
    preview_size: int = Field(128, ge=16)
    gpu_share: float = Field(0.2, gt=0)
    num_replicas: int = Field(1, ge=1)
    max_ongoing_requests: int = Field(128, ge=1)


class AppSettings(_Frozen):
    """The arguments of ``serve_app.app:build``, as ``serve_config.yaml`` gives them.

    ``use_gpu`` is the one switch between a laptop (replicas ask for no GPU) and a GPU cluster
    (each asks for its ``gpu_share``).
    """

    model: str = "mini"
    use_gpu: bool = False
    router: RouterSettings = RouterSettings()
    denoiser: DenoiserSettings = DenoiserSettings()
    text_to_image: TextToImageSettings = TextToImageSettings()


class LocalServer(_Frozen):
    """Where ``limner serve`` listens. Loopback unless told otherwise; port 0 picks a free one."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65_535)
    dashboard_port: int = Field(8265, ge=1, le=65_535)
    haproxy: bool = True

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read ``LIMNER_HOST``, ``LIMNER_PORT``, ``LIMNER_DASHBOARD_PORT``, ``LIMNER_HAPROXY`` (0 or 1)."""
        env = os.environ if environ is None else environ
        names = {name: env.get(f"LIMNER_{name.upper()}") for name in cls.model_fields}
        return cls.model_validate({name: value for name, value in names.items() if value is not None})
