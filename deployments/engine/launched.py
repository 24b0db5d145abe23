"""A step that the device was given, and what it still owes the host. Knows nothing of what comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from deployments.engine.ledger import LiveRequest
from deployments.engine.preview import PreviewMap
from deployments.engine.roster import StepResult
from deployments.engine.rows import RunningBatch, Stepped
from deployments.engine.trajectory import Trajectory
from deployments.engine.transfer import Fetch


@dataclass(frozen=True, eq=False)
class Launched:
    """``chosen`` advance by ``stepped``, of ``num_rows`` rows that cost ``num_cost_rows``, from ``began`` on.

    ``steps_done`` are those of each of them with this step, ``latents`` those of the finished, ``origins`` of
    who gets a preview. If it ``runs_ahead`` it need not be waited for before the next one is launched.
    """

    chosen: Sequence[LiveRequest]
    stepped: Stepped
    num_rows: int
    num_cost_rows: float
    began: float
    steps_done: Sequence[int]
    latents: Mapping[Trajectory, Fetch]
    origins: Mapping[Trajectory, Fetch]
    runs_ahead: bool

    @classmethod
    def of(
        cls,
        batch: RunningBatch,
        chosen: Sequence[LiveRequest],
        *,
        num_cost_rows: float,
        began: float,
        previews: bool,
        runs_ahead: bool,
    ) -> Self:
        """Step ``batch``, whose members are ``chosen``. To be called in inference mode."""
        num_rows = batch.num_rows
        stepped = batch.step()
        going = _unharmed(chosen, stepped)
        finished = [live.trajectory for live in going if live.trajectory.finished]
        shown = [live.trajectory for live in going if previews and _is_shown(live)]
        return cls(
            chosen,
            stepped,
            num_rows,
            num_cost_rows,
            began,
            [live.steps_done for live in chosen],
            {member: batch.latents_of(member) for member in finished},
            {member: batch.origin_of(member) for member in shown},
            runs_ahead,
        )

    @property
    def advanced(self) -> list[LiveRequest]:
        """Those whose call did not fail."""
        return _unharmed(self.chosen, self.stepped)

    def results(self, preview: PreviewMap | None) -> list[StepResult]:
        """What became of each of ``chosen``. Waits for the device; raises what it raised."""
        faults = self.stepped.faults()
        results = []
        for live, steps_done in zip(self.chosen, self.steps_done, strict=True):
            trajectory = live.trajectory
            latents, origin = self.latents.get(trajectory), self.origins.get(trajectory)
            results.append(
                StepResult(
                    live,
                    steps_done,
                    faults.get(trajectory),
                    None if latents is None else latents.wait(),
                    None if origin is None or preview is None else preview.picture(origin.wait()),
                )
            )
        return results


def _unharmed(chosen: Sequence[LiveRequest], stepped: Stepped) -> list[LiveRequest]:
    return [live for live in chosen if live.trajectory not in stepped.failed]


def _is_shown(live: LiveRequest) -> bool:
    every = live.request.preview_every
    return bool(every) and not live.trajectory.finished and live.steps_done % every == 0
