"""How well the predicted finishes of late came true."""

from __future__ import annotations

from collections import deque
from statistics import median, quantiles

_NUM_REMEMBERED = 256


class Accuracy:
    """Relative errors of the predicted durations of recent requests."""

    def __init__(self) -> None:
        self._errors: deque[float] = deque(maxlen=_NUM_REMEMBERED)

    def observe(self, predicted_s: float, real_s: float) -> None:
        """A request took ``real_s`` from acceptance to its end."""
        if real_s > 0:
            self._errors.append(abs(predicted_s - real_s) / real_s)

    @property
    def median(self) -> float | None:
        """None before the first request is done."""
        return median(self._errors) if self._errors else None

    @property
    def p90(self) -> float | None:
        """Nine in ten errors are no larger; None before the second request is done."""
        return quantiles(self._errors, n=10, method="inclusive")[-1] if len(self._errors) > 1 else None
