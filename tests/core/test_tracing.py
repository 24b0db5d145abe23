"""Spans have the right parents and times, are sampled as told, and cost nothing while tracing is off."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from opentelemetry.trace import StatusCode

from core.errors import QueueFull
from core.settings import TracingSettings
from core.tracing import tracing_of
from tests.spans import (
    PARENT_ID,
    SAMPLED,
    TRACE_ID,
    UNSAMPLED,
    KeptSpans,
    attributes,
    id_of,
    parent_of,
    seconds,
    trace_of,
)

OFF = """
import sys
from core.settings import AppSettings
from core.tracing import tracing_of
assert tracing_of(AppSettings().tracing) is None
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


def test_nothing_is_imported_while_tracing_is_off() -> None:
    done = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_endpoint_switches_it_on() -> None:
    assert tracing_of(TracingSettings(endpoint="http://127.0.0.1:9/v1/traces")) is not None


def test_a_span_goes_below_that_of_the_client() -> None:
    kept = KeptSpans(ratio=0.0)
    span = kept.tracing.begin("POST", SAMPLED)
    assert span is not None
    span.end()
    (found,) = kept.spans
    assert (trace_of(found), parent_of(found)) == (TRACE_ID, PARENT_ID)


@pytest.mark.parametrize("header", [None, "", "nonsense", "00-0-0-01", f"ff-{TRACE_ID}-{PARENT_ID}-01"])
def test_a_header_that_cannot_be_read_begins_a_new_trace(header: str | None) -> None:
    kept = KeptSpans()
    span = kept.tracing.begin("POST", header)
    assert span is not None
    span.end()
    assert parent_of(kept.spans[0]) is None
    assert trace_of(kept.spans[0]) != TRACE_ID


def test_what_is_not_sampled_is_no_span() -> None:
    assert KeptSpans(ratio=0.0).tracing.begin("POST") is None
    assert KeptSpans(ratio=1.0).tracing.begin("POST", UNSAMPLED) is None


def test_parts_of_a_request_that_is_not_traced_are_not_either() -> None:
    kept = KeptSpans()
    with kept.tracing.within("denoise", None) as span:
        assert span is None
    assert kept.spans == ()


def test_a_part_elsewhere_and_its_stages_are_one_tree() -> None:
    kept = KeptSpans()
    request = kept.tracing.begin("POST")
    assert request is not None
    began = time.monotonic()
    with kept.tracing.within("denoise", request.traceparent) as span:
        assert span is not None
        span.note(num_steps=4)
        span.event("accepted", predicted_finish_s=0.5)
        span.stage("steps", began - 2.0, began - 0.5)
    request.end()
    steps, denoise, post = (kept.named(name) for name in ("steps", "denoise", "POST"))
    assert parent_of(steps) == id_of(denoise)
    assert parent_of(denoise) == id_of(post)
    assert len({trace_of(each) for each in kept.spans}) == 1
    assert seconds(steps) == pytest.approx(1.5, abs=1e-3)
    assert attributes(denoise) == {"limner.num_steps": 4}
    assert [(event.name, dict(event.attributes or {})) for event in denoise.events] == [
        ("accepted", {"limner.predicted_finish_s": 0.5})
    ]


def test_an_error_is_told_by_its_code_and_not_by_its_words() -> None:
    kept = KeptSpans()
    with pytest.raises(QueueFull), kept.tracing.within("denoise", SAMPLED):
        raise QueueFull("the words of a prompt")
    (found,) = kept.spans
    assert found.status.status_code is StatusCode.ERROR
    assert attributes(found) == {"error.type": "queue_full"}
    assert "words" not in found.to_json()


def test_a_span_ends_once() -> None:
    kept = KeptSpans()
    with kept.tracing.within("denoise", SAMPLED) as span:
        assert span is not None
        span.end()
    assert len(kept.spans) == 1
    assert kept.spans[0].status.status_code is StatusCode.UNSET
