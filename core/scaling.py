"""How many replicas a deployment may have, and by what: the settings of autoscaling."""

from __future__ import annotations

from datetime import time
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class WarmFloor(BaseModel):
    """From ``at`` of the day on, such as "07:30", at least ``num_replicas``, until the next floor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: time
    num_replicas: int = Field(ge=0)


class Autoscaling(BaseModel):
    """Replicas that come and go with demand, from ``min_replicas`` to ``max_replicas``.

    ``floors`` keep replicas warm by the time of day in ``timezone``, each from ``floor_lead_s`` before it
    begins. A change waits until it was wanted for ``upscale_delay_s`` or ``downscale_delay_s``; the last
    replica goes after ``downscale_to_zero_delay_s``. Figures are means over ``look_back_s``, taken every
    ``interval_s``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(ge=1)
    floors: tuple[WarmFloor, ...] = ()
    timezone: str = "UTC"
    floor_lead_s: float = Field(300.0, ge=0)
    upscale_delay_s: float = Field(5.0, ge=0)
    downscale_delay_s: float = Field(300.0, ge=0)
    downscale_to_zero_delay_s: float = Field(900.0, ge=0)
    look_back_s: float = Field(15.0, gt=0)
    interval_s: float = Field(2.0, gt=0)

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"there is no time zone {name!r}") from error
        return name

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        if self.interval_s >= self.look_back_s:
            raise ValueError(f"interval_s {self.interval_s} is not below look_back_s {self.look_back_s}")
        return self


class WorkScaling(Autoscaling):
    """By queued work: replicas are busy for ``utilisation`` of the time, and through with what waits in
    ``horizon_s``."""

    utilisation: float = Field(0.6, gt=0, le=1)
    horizon_s: float = Field(30.0, gt=0)


class QueueScaling(Autoscaling):
    """By queue length: a replica for every ``requests_per_replica`` that wait or run."""

    requests_per_replica: float = Field(16.0, gt=0)
