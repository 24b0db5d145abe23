"""Errors keep their fields when they cross a process boundary."""

import pickle

import pytest

from core import errors
from core.errors import InvalidRequest, LimnerError, QueueFull

KINDS = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, LimnerError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_pickling_keeps_every_member(kind: type[LimnerError]) -> None:
    error = kind("no", field="steps", limit=150, retry_after_s=2.5)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert str(copy) == "no"


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(set(codes)) == len(codes)


def test_only_errors_that_may_pass_are_retryable() -> None:
    assert QueueFull("full").retryable
    assert not InvalidRequest("bad").retryable
