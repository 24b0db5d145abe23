"""The few-step adapter that a model may have of its own, beside those of members.

Knows what it is called and how requests come by it; nothing of files, slots or sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from core.errors import InvalidRequest
from deployments.engine.lora import LoraFactors
from deployments.engine.request import AdapterInput, DenoiseRequest

# No id of a member's adapter, which all have a prefix of their own.
FEW_STEP = "few-step"


def with_few_step(
    request: DenoiseRequest, adapters: Mapping[str, LoraFactors], own: LoraFactors | None
) -> tuple[DenoiseRequest, Mapping[str, LoraFactors]]:
    """``request`` and the factors of its ``adapters``, with the few-step adapter where it asks for that.

    ``own`` are the factors of the model's. Raises InvalidRequest where there is none.
    """
    if not request.few_step:
        return request, adapters
    if own is None:
        raise InvalidRequest("this model has no few-step adapter", field="few_step", limit=False)
    uses = (AdapterInput(FEW_STEP, 1.0), *request.adapters)
    return replace(request, adapters=uses), {**adapters, FEW_STEP: own}
