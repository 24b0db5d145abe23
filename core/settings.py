"""Every setting of Limner, typed, frozen, unknown keys refused. The only file that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.scaling import QueueScaling, WorkScaling
from core.types import CompileMode

Precision = Literal["auto", "float32", "bfloat16", "float16"]
EMBEDDED_FAMILY = "mini"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RequestLimits(_Frozen):
    """What one request may ask for."""

    max_prompt_chars: int = Field(2_000, ge=1)
    max_num_inference_steps: int = Field(150, ge=1, le=1_000)
    max_images: int = Field(10, ge=1)
    max_guidance_scale: float = Field(30.0, gt=1)
    max_body_bytes: int = Field(1_000_000, ge=1_000)
    max_upload_body_bytes: int = Field(30_000_000, ge=1_000)
    max_upload_bytes: int = Field(12_000_000, ge=1_000)
    max_upload_pixels: int = Field(50_000_000, ge=1)
    max_output_pixels: int = Field(16_777_216, ge=1)
    max_deadline_s: float = Field(600.0, gt=0)
    max_training_body_bytes: int = Field(120_000_000, ge=1_000)
    max_training_steps: int = Field(4_000, ge=1)
    max_adapter_bytes: int = Field(300_000_000, ge=1_000)
    max_adapters_per_member: int = Field(20, ge=1)


class RouterSettings(_Frozen):
    """The ingress. Who follows a job hears of it within ``job_poll_s``."""

    limits: RequestLimits = RequestLimits()
    num_replicas: int = Field(1, ge=1)
    autoscaling: QueueScaling | None = None
    max_ongoing_requests: int = Field(512, ge=1)
    cors_origins: tuple[str, ...] = ()
    job_poll_s: float = Field(0.5, gt=0)

    @model_validator(mode="after")
    def _never_without_replicas(self) -> Self:
        if self.autoscaling is not None and not self.autoscaling.min_replicas:
            raise ValueError("the router's min_replicas must be 1 or more: nothing else can start it")
        return self


class DenoiserSettings(_Frozen):
    """The replica class that owns the UNet.

    ``precision`` "auto" measures at start and takes the fastest one the device is good at.
    ``num_threads`` 0 takes every core that the process may use. ``adapter_slots`` adapters fit on the
    device at a time, ``adapter_cache_bytes`` of them in the host's memory. A replica that is stopped hands
    back at once what will not be done within ``drain_timeout_s``; a spot node has to leave it that time and
    ten seconds more.

    On a GPU ``cuda_graphs`` records UNet calls at start and plays them back; ``compile`` has torch.compile
    make what is recorded, which takes minutes at the first start of a model on a kind of GPU, and a C
    compiler.
    """

    precision: Precision = "auto"
    num_threads: int = Field(0, ge=0)
    max_rows: int = Field(16, ge=2)
    max_queued_requests: int = Field(64, ge=1)
    gpu_share: float = Field(0.6, gt=0)
    num_replicas: int = Field(1, ge=1)
    autoscaling: WorkScaling | None = None
    drain_timeout_s: float = Field(5.0, gt=0)
    adapter_slots: int = Field(32, ge=4)
    adapter_cache_bytes: int = Field(2_000_000_000, ge=1_000_000)
    cuda_graphs: bool = True
    compile: CompileMode = "off"

    @model_validator(mode="after")
    def _compiled_calls_are_recorded(self) -> Self:
        if self.compile != "off" and not self.cuda_graphs:
            raise ValueError("compile needs cuda_graphs: what is compiled is what is recorded")
        return self


class PipelineSettings(_Frozen):
    """A pipeline's replica class: text encoder, VAE, picture files."""

    precision: Precision = "auto"
    num_threads: int = Field(0, ge=0)
    max_decode_batch: int = Field(8, ge=1)
    embedding_cache_entries: int = Field(512, ge=0)
    preview_size: int = Field(128, ge=16)
    # With a Denoiser's 0.6, three pipelines and Perception share one GPU.
    gpu_share: float = Field(0.1, gt=0)
    num_replicas: int = Field(1, ge=1)
    autoscaling: QueueScaling | None = None
    max_ongoing_requests: int = Field(128, ge=1)


class PerceptionSettings(_Frozen):
    """The replica class that finds masks, attributes and faces, and checks pictures."""

    num_threads: int = Field(0, ge=0)
    max_batch: int = Field(8, ge=1)
    gpu_share: float = Field(0.1, gt=0)
    num_replicas: int = Field(1, ge=1)
    autoscaling: QueueScaling | None = None
    max_ongoing_requests: int = Field(128, ge=1)


class GenderSwapSettings(_Frozen):
    """The replica class that composes the others for a gender swap. It needs no GPU."""

    num_replicas: int = Field(1, ge=1)
    autoscaling: QueueScaling | None = None
    max_ongoing_requests: int = Field(64, ge=1)


class TrainingSettings(_Frozen):
    """The replica that takes in trainings, and the Ray tasks that carry them out.

    ``max_concurrent`` trainings run at a time; each asks Ray for ``num_gpus`` (none unless ``use_gpu``) on
    a node with the labels of ``label_selector``. A job whose lease is not renewed for ``lease_s`` is taken
    over.
    """

    max_concurrent: int = Field(1, ge=1)
    max_queued: int = Field(100, ge=1)
    num_gpus: float = Field(1.0, gt=0)
    label_selector: dict[str, str] = {}
    num_threads: int = Field(0, ge=0)
    max_retries: int = Field(3, ge=0)
    lease_s: float = Field(15.0, gt=0)
    max_ongoing_requests: int = Field(16, ge=1)


class StoreSettings(_Frozen):
    """Where jobs, adapters and files are kept: an SQLAlchemy URL and an fsspec URL.

    None stands for a SQLite file and a folder in :func:`data_folder`.
    """

    database: str | None = None
    blobs: str | None = None

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{data_folder() / 'limner.db'}"

    @property
    def blobs_url(self) -> str:
        return self.blobs or f"file://{data_folder() / 'blobs'}"


class SafetySettings(_Frozen):
    """What is refused. ``enabled`` None means: on for every family but the embedded one.

    ``concepts`` are compared with each picture where no safety checker is installed, ``threshold`` is
    the probability of one of them above which a picture is blocked.
    """

    enabled: bool | None = None
    concepts: tuple[str, ...] = ("nudity", "explicit sexual content", "graphic violence and gore")
    threshold: float = Field(0.5, gt=0, lt=1)


def safety_enabled(settings: SafetySettings, family: str) -> bool:
    """Whether pictures of a model of ``family`` are checked before they are shown.

    The embedded family draws flat cartoons of a closed world and is checked only when told to.
    """
    return family != EMBEDDED_FAMILY if settings.enabled is None else settings.enabled


class TracingSettings(_Frozen):
    """Where traces go: an OTLP/HTTP address such as "http://collector:4318/v1/traces"; None for nowhere.

    ``ratio`` of the requests are traced, and those whose client's ``traceparent`` says that it traces them.
    """

    endpoint: str | None = None
    ratio: float = Field(0.01, ge=0, le=1)
    timeout_s: float = Field(5.0, gt=0)


class AppSettings(_Frozen):
    """The arguments of ``serve_app.app:build``, as ``serve_config.yaml`` gives them.

    ``use_gpu`` is the one switch between a laptop (replicas ask for no GPU) and a GPU cluster
    (each asks for its ``gpu_share``).
    """

    model: str = "mini"
    use_gpu: bool = False
    router: RouterSettings = RouterSettings()
    denoiser: DenoiserSettings = DenoiserSettings()
    text_to_image: PipelineSettings = PipelineSettings()
    image_to_image: PipelineSettings = PipelineSettings()
    inpaint: PipelineSettings = PipelineSettings()
    perception: PerceptionSettings = PerceptionSettings()
    gender_swap: GenderSwapSettings = GenderSwapSettings()
    training: TrainingSettings = TrainingSettings()
    store: StoreSettings = StoreSettings()
    safety: SafetySettings = SafetySettings()
    tracing: TracingSettings = TracingSettings()


class LocalServer(_Frozen):
    """Where ``limner serve`` listens, and the model it serves if not that of the config file.

    Loopback unless told otherwise; port 0 picks a free one.
    """

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65_535)
    dashboard_port: int = Field(8265, ge=1, le=65_535)
    haproxy: bool = True
    model: str | None = Field(None, min_length=1)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read ``LIMNER_HOST``, ``LIMNER_PORT``, ``LIMNER_DASHBOARD_PORT``, ``LIMNER_HAPROXY`` (0 or 1) and
        ``LIMNER_MODEL``."""
        env = os.environ if environ is None else environ
        names = {name: env.get(f"LIMNER_{name.upper()}") for name in cls.model_fields}
        return cls.model_validate({name: value for name, value in names.items() if value is not None})


def weights_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where installed models live: ``LIMNER_WEIGHTS``, by default ``~/.cache/limner/weights``."""
    env = os.environ if environ is None else environ
    chosen = env.get("LIMNER_WEIGHTS")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "limner" / "weights"


def data_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where jobs and adapters live unless settings say otherwise: ``LIMNER_DATA``, by default
    ``~/.local/share/limner``."""
    env = os.environ if environ is None else environ
    chosen = env.get("LIMNER_DATA")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".local" / "share" / "limner"
