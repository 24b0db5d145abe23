"""How far the pictures of one request are, together. Knows the engine's events and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

from deployments.engine import request as engine


class Tally:
    """Steps done and the predicted finish over all passes of all pictures. Times are ``time.monotonic``."""

    def __init__(self, num_images: int, num_steps: int, decode_s: float) -> None:
        """``num_steps`` of one picture over all its passes; ``decode_s`` follows the last of them."""
        self._num_steps = num_steps
        self._decode_s = decode_s
        self._pictures = [_PictureTally() for _ in range(num_images)]

    def note(
        self, index: int, number: int, num_steps: int, event: engine.Accepted | engine.Progressed, now: float
    ) -> None:
        """An event of pass ``number`` of picture ``index``; the pass has ``num_steps``."""
        picture = self._pictures[index]
        picture.pass_steps[number] = num_steps
        picture.finish_at = now + event.predicted_finish_s
        step = event.step if isinstance(event, engine.Progressed) else 0
        # A picture that starts over on another replica does not go back in the client's eyes.
        picture.steps_done[number] = max(picture.steps_done.get(number, 0), step)
        if step < num_steps:
            picture.step_s = event.predicted_finish_s / (num_steps - step)

    @property
    def accepted(self) -> bool:
        return all(picture.finish_at is not None for picture in self._pictures)

    @property
    def step(self) -> int:
        return sum(min(self._num_steps, sum(picture.steps_done.values())) for picture in self._pictures)

    @property
    def num_steps(self) -> int:
        return self._num_steps * len(self._pictures)

    def predicted_finish_s(self, now: float) -> float:
        """Seconds until every picture is decoded; passes yet to come take their steps as the present one."""
        return max(picture.left_s(self._num_steps, now) for picture in self._pictures) + self._decode_s


@dataclass(slots=True)
class _PictureTally:
    pass_steps: dict[int, int] = field(default_factory=dict)
    steps_done: dict[int, int] = field(default_factory=dict)
    finish_at: float | None = None
    step_s: float = 0.0

    def left_s(self, num_steps: int, now: float) -> float:
        """Until the end of the pass at hand, and of ``num_steps`` over all passes."""
        to_come = max(0, num_steps - sum(self.pass_steps.values()))
        return max(0.0, (self.finish_at or now) - now) + to_come * self.step_s
