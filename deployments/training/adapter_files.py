"""Adapter files that members bring and take along. Imports torch when first used: call it in a thread."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from core.errors import BrokenAdapter
from core.training import Adapter, AdapterFormat, ImportSpec


class Imported(NamedTuple):
    """An adapter and its file in PEFT layout."""

    adapter: Adapter
    file: bytes


def imported(spec: ImportSpec, adapter_id: str, now: datetime) -> Imported:
    """The file of ``spec`` as Limner keeps it.

    Raises :class:`InvalidRequest` (field "file") for what is no adapter, or one for another base model.
    """
    from weights.adapters import Fact, check_fits, read_adapter, write_peft

    weights = check_fits(read_adapter(spec.file), spec.model_id)
    facts = {
        **weights.metadata,
        Fact.BASE_MODEL: spec.model_id,
        Fact.TRIGGER: spec.trigger,
        Fact.SUBJECT: spec.subject,
    }
    file = write_peft(replace(weights, metadata=facts))
    adapter = Adapter(
        adapter_id=adapter_id,
        user_id=spec.user_id,
        name=spec.name,
        model_id=spec.model_id,
        subject=spec.subject,
        trigger=spec.trigger,
        rank=weights.rank,
        alpha=weights.alpha,
        num_steps=weights.num_steps,
        has_text_encoder=bool(weights.text_encoder or weights.text_encoder_2),
        origin="imported",
        sha256=hashlib.sha256(file).hexdigest(),
        num_bytes=len(file),
        num_samples=0,
        created_at=now,
    )
    return Imported(adapter, file)


def exported(adapter: Adapter, file: bytes, layout: AdapterFormat) -> bytes:
    """``file``, which is the adapter's in PEFT layout, in another ``layout``.

    Raises :class:`BrokenAdapter` if it is not the file that was stored.
    """
    if hashlib.sha256(file).hexdigest() != adapter.sha256:
        raise BrokenAdapter("The adapter's file is not the one that was stored.")
    if layout is AdapterFormat.PEFT:
        return file
    from weights.adapters import read_adapter, write_kohya

    return write_kohya(read_adapter(file))
