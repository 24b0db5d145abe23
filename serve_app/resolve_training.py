"""From the requests that make adapters to their specs. Every refusal names the field and its limit."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Collection
from dataclasses import fields, replace

from core.errors import InvalidRequest
from core.settings import RequestLimits
from core.training import ImportSpec, TrainingOptions, TrainingSpec
from core.training_defaults import check_trainable, defaults_for
from core.types import ModelInfo
from serve_app.adapter_requests import ImportRequest, TrainingRequest
from serve_app.offer import Offer, find_model
from serve_app.resolve import at_most, check_rules
from serve_app.triggers import choose_trigger

MAX_SAMPLES = 50


def resolve_training(
    request: TrainingRequest, offer: Offer, user_id: str, triggers: Collection[str]
) -> TrainingSpec:
    """``triggers`` are those that the member has already; one that is chosen differs from them.

    Raises:
        InvalidRequest, ModerationBlocked: for the first value that breaks a limit or a rule.
        MissingPart: for a model whose family cannot be trained.
    """
    model = find_model(request.model, offer.models)
    check_trainable(model.family)
    options = _options(request, model, offer.limits)
    _check_words(request, model, offer)
    return TrainingSpec(
        request_id=uuid.uuid4().hex,
        user_id=user_id,
        model_id=model.model_id,
        name=request.name.strip(),
        subject=request.subject,
        trigger=request.trigger or choose_trigger(triggers),
        photos=tuple(photo.data for photo in request.photos),
        options=options,
        keep_photos=request.keep_photos,
    )


def resolve_import(request: ImportRequest, offer: Offer, user_id: str) -> ImportSpec:
    """Raises:
    InvalidRequest, ModerationBlocked: for the first value that breaks a limit or a rule.
    """
    model = find_model(request.model, offer.models)
    _check_words(request, model, offer)
    return ImportSpec(
        request_id=uuid.uuid4().hex,
        user_id=user_id,
        model_id=model.model_id,
        name=request.name.strip(),
        subject=request.subject,
        trigger=request.trigger,
        file=request.file,
    )


def _check_words(request: TrainingRequest | ImportRequest, model: ModelInfo, offer: Offer) -> None:
    for field in ("name", "subject", "trigger"):
        check_rules(field, getattr(request, field) or "", model, offer)


def _options(request: TrainingRequest, model: ModelInfo, limits: RequestLimits) -> TrainingOptions:
    """The family's options, with what the request says in their place."""
    named = {field.name for field in fields(TrainingOptions)} & set(TrainingRequest.model_fields)
    asked = {name: getattr(request, name) for name in named}
    options = replace(
        defaults_for(model.family),
        **{name: value for name, value in asked.items() if value is not None},
    )
    if request.alpha is None and request.rank is not None:
        # Twice the rank alone would halve what an adapter does.
        options = replace(options, alpha=float(request.rank))
    if request.seed is None:
        options = replace(options, seed=secrets.randbits(32))
    at_most("num_steps", options.num_steps, limits.max_training_steps)
    if options.sample_every and options.num_steps // options.sample_every > MAX_SAMPLES:
        fewest = -(-options.num_steps // MAX_SAMPLES)
        raise InvalidRequest(
            f"At most {MAX_SAMPLES} sample pictures: of {options.num_steps} steps, one every {fewest}.",
            field="sample_every",
            limit=fewest,
        )
    return options
