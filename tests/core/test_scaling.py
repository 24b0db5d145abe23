from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from core.scaling import QueueScaling, WorkScaling
from core.settings import AppSettings


def test_floors_are_written_as_times_of_day() -> None:
    scaling = WorkScaling.model_validate(
        {"max_replicas": 8, "floors": [{"at": "07:30", "num_replicas": 4}], "timezone": "Europe/Berlin"}
    )
    assert (scaling.floors[0].at.hour, scaling.floors[0].at.minute) == (7, 30)
    assert WorkScaling.model_validate(scaling.model_dump(mode="json")) == scaling


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"max_replicas": 0}, "max_replicas"),
        ({"min_replicas": 3, "max_replicas": 2}, "min_replicas 3"),
        ({"max_replicas": 2, "timezone": "Atlantis"}, "Atlantis"),
        ({"max_replicas": 2, "look_back_s": 1.0, "interval_s": 2.0}, "interval_s"),
        ({"max_replicas": 2, "floors": [{"at": "25:00", "num_replicas": 1}]}, "at"),
        ({"max_replicas": 2, "requests": 1}, "requests"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        QueueScaling.model_validate(arguments)


def test_the_router_is_never_without_replicas() -> None:
    none = {"autoscaling": {"min_replicas": 0, "max_replicas": 2}}
    assert AppSettings.model_validate({"inpaint": none}).inpaint.autoscaling is not None
    with pytest.raises(ValidationError, match="router"):
        AppSettings.model_validate({"router": none})
