"""Accept headers, by RFC 9110."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import LimnerError, MalformedRequest, NotAcceptable
from serve_app.negotiation import preferred

OFFERED = ("application/json", "image/png", "image/webp", "text/event-stream")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("*", "application/json"),
        ("image/*", "image/png"),
        ("IMAGE/WebP", "image/webp"),
        ("image/png;q=0.2, image/webp;q=0.8", "image/webp"),
        ("image/*;q=0.9, image/png;q=0.1", "image/webp"),
        ("*/*, application/json;q=0", "image/png"),
        ("text/event-stream, application/json;q=0.9", "text/event-stream"),
        ("application/json, text/event-stream", "application/json"),
        ("text/html, image/webp;charset=x;q=0.4", "image/webp"),
        (",,image/png,", "image/png"),
    ],
)
def test_the_client_s_preference_wins_then_ours(accept: str | None, expected: str) -> None:
    assert preferred(accept, OFFERED) == expected


@pytest.mark.parametrize("accept", ["text/html", "image/png;q=0", "*/*;q=0", "image", "application/*+json"])
def test_nothing_that_suits_is_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable) as caught:
        preferred(accept, OFFERED)
    assert caught.value.limit == list(OFFERED)


@pytest.mark.parametrize("quality", ["2", "-1", "high", "nan", ""])
def test_a_quality_is_a_number_from_0_to_1(quality: str) -> None:
    with pytest.raises(MalformedRequest):
        preferred(f"image/png;q={quality}", OFFERED)


@given(accept=st.text(max_size=40))
def test_any_header_is_understood_or_refused(accept: str) -> None:
    try:
        chosen = preferred(accept, OFFERED)
    except LimnerError:
        return
    assert chosen in OFFERED
