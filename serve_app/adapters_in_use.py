"""Adapters in requests for pictures: found in the store, and fit for the request's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from core.errors import InvalidRequest
from core.specs import AdapterUse
from core.training import Adapter
from serve_app.answer_schemas import AdapterParameters
from serve_app.members import AdapterMembers
from serve_app.records import Records
from serve_app.resolve import Resolved, S


async def for_member(
    user_id: str, asked: Sequence[AdapterMembers], resolved: Resolved[S], records: Records
) -> Resolved[S]:
    """The request as the member's own, drawn with the adapters ``asked`` for. The store is asked only then.

    Raises:
        NotFound: for an adapter that the member has not got.
        Conflict: for one that is still being trained.
        InvalidRequest: for one of another model.
    """
    if not asked:
        return Resolved(replace(resolved.spec, user_id=user_id), resolved.parameters)
    found = await records.adapters(
        [adapter.id for adapter in asked], user_id, field=lambda place: f"adapters.{place}.id"
    )
    for place, adapter in enumerate(asked):
        _check_model(found[adapter.id], resolved.parameters.model, place)
    # In quotes, as A1111 writes what holds commas.
    told = ", ".join(f"{adapter.id}: {adapter.weight:g}" for adapter in asked)
    spec = replace(
        resolved.spec,
        user_id=user_id,
        adapters=tuple(_use(adapter, found[adapter.id]) for adapter in asked),
        parameters={**resolved.spec.parameters, "Adapters": f'"{told}"'},
    )
    reported = [AdapterParameters(id=adapter.id, weight=adapter.weight) for adapter in asked]
    return Resolved(spec, resolved.parameters.model_copy(update={"adapters": reported}))


def _use(asked: AdapterMembers, adapter: Adapter) -> AdapterUse:
    return AdapterUse(
        adapter_id=adapter.adapter_id,
        weight=asked.weight,
        sha256=adapter.sha256,
        subject_words=f"{adapter.trigger} {adapter.subject}",
        has_text_encoder=adapter.has_text_encoder,
    )


def _check_model(adapter: Adapter, model_id: str, place: int) -> None:
    if adapter.model_id != model_id:
        raise InvalidRequest(
            f"The adapter is for the model {adapter.model_id}, and the request for {model_id}.",
            field=f"adapters.{place}.id",
            limit=adapter.model_id,
        )
