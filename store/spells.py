"""Spells: how long each attempt trained, for a fair order of members and for predictions."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, case, delete, func, insert, select, update

from store.keys import new_id
from store.tables import spells

FAIR_WINDOW_S = 24 * 3_600.0
KEPT_S = 30 * FAIR_WINDOW_S
NUM_RECENT_SPELLS = 10


def trained_seconds(user_id: ColumnElement[str], now_s: float) -> ColumnElement[float]:
    """How many of the last 24 hours' seconds a member's attempts trained, for a column of members."""
    since_s = now_s - FAIR_WINDOW_S
    began_s = case((spells.c.started_s < since_s, since_s), else_=spells.c.started_s)
    total = select(func.sum(spells.c.seen_s - began_s)).where(
        spells.c.user_id == user_id, spells.c.seen_s > since_s
    )
    return func.coalesce(total.scalar_subquery(), 0.0)


def begin_spell(connection: Connection, user_id: str, model_id: str, now_s: float) -> str:
    """A new spell's id. Old spells lose their member, and very old ones go."""
    connection.execute(
        update(spells)
        .where(spells.c.seen_s <= now_s - FAIR_WINDOW_S, spells.c.user_id.is_not(None))
        .values(user_id=None)
    )
    connection.execute(delete(spells).where(spells.c.seen_s <= now_s - KEPT_S))
    spell_id = new_id("spl")
    connection.execute(
        insert(spells).values(
            spell_id=spell_id, user_id=user_id, model_id=model_id, started_s=now_s, seen_s=now_s
        )
    )
    return spell_id


def see_spell(connection: Connection, spell_id: str | None, now_s: float) -> None:
    """The attempt was at work until now."""
    connection.execute(update(spells).where(spells.c.spell_id == spell_id).values(seen_s=now_s))


def step_spell(connection: Connection, spell_id: str | None, step: int, now_s: float) -> None:
    """The attempt has done ``step``."""
    values = {
        "first_step": func.coalesce(spells.c.first_step, step),
        "first_step_s": func.coalesce(spells.c.first_step_s, now_s),
        "last_step": step,
        "last_step_s": now_s,
    }
    connection.execute(update(spells).where(spells.c.spell_id == spell_id).values(**values))


def seconds_per_step(connection: Connection, model_id: str) -> float | None:
    """The mean over the latest spells on a model, from their first reported step to their last."""
    latest = (
        select(
            (spells.c.last_step_s - spells.c.first_step_s).label("seconds"),
            (spells.c.last_step - spells.c.first_step).label("steps"),
        )
        .where(spells.c.model_id == model_id, spells.c.last_step > spells.c.first_step)
        .order_by(spells.c.seen_s.desc())
        .limit(NUM_RECENT_SPELLS)
        .subquery()
    )
    seconds, steps = connection.execute(select(func.sum(latest.c.seconds), func.sum(latest.c.steps))).one()
    return seconds / steps if steps else None
